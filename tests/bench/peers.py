# SPDX-License-Identifier: Apache-2.0
"""qtool beside the tools of tests/bench/peer_tools.py: same model, same samples, same machine, same run. onnxruntime runs
per channel with uint8 activations and int8 weights, opset raised and quant_pre_process run first, in each of its
calibrations (minmax, entropy, percentile), its dynamic form and its 4-bit weight-only form; the others with their defaults.

    build/venv/bin/python tests/bench/peers.py [--models resnet20,...] [--tools onnxruntime,nncf,inc,quark] [--rounds 3]

Prints two Markdown tables, a verdict for each recipe of qtool and all figures, and with --json the figures. SQNR is that of
the worst float output; KL and top-1 are those of the first one with class scores. All on held-out data that no side has
seen. Latency is that of all files of a model in ONNX Runtime, run in turn.
"""
import argparse
import collections
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import onnx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "samples"))
import datasets
import peer_tools
from measure import latencies, session
from quality import Quality, intervals

QTOOL = os.environ.get("QTOOL", str(datasets.ROOT / "build" / "release" / "qtool"))
STATIC = [("static", ("int8_static", "int8_fast"))]
DYNAMIC = [("dynamic", ("int8_dynamic",))]
FOUR_BITS = [("int4", ("int4_weights",))]
# model: kinds of quantization, each with the recipes of qtool
JOBS = {
    "resnet20": STATIC,
    "mnist8": STATIC,
    "mnist_burn": STATIC,
    "squeezenet": STATIC,
    "self_attention": STATIC,
    "yunet": STATIC,
    "ultraface": STATIC,
    "nanodet": STATIC,
    "yolox": STATIC,
    "sinet": STATIC,
    "super_resolution": STATIC,
    "espcn": STATIC,
    "ppocr_cls": STATIC,
    "ppocr_det": STATIC,
    "dnsmos": STATIC,
    "magika": STATIC,
    "nnsplit": STATIC + DYNAMIC,
    "tashkeel": STATIC + DYNAMIC + FOUR_BITS,
    "byte_llama": STATIC + DYNAMIC + FOUR_BITS,
}

def timed(command, folder):
    """Seconds, peak resident MiB and exit status of a whole process in `folder`, where some leave files; OPENBLAS_CORETYPE
    unset for both sides."""
    # A small parent of its own: a forked child's peak would otherwise start at the size of this process.
    script = ("import resource,subprocess,sys,time\nt=time.perf_counter()\n"
              "r=subprocess.run(sys.argv[1:],capture_output=True,text=True,errors='replace')\n"
              "print('\\n'.join(r.stderr.strip().splitlines()[-1:]))\n"
              "print(time.perf_counter()-t,resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024,r.returncode)")
    done = subprocess.run([sys.executable, "-S", "-c", script, *map(str, command)], env=datasets.environment(), cwd=folder, capture_output=True,
                          text=True, check=True)
    *message, figures = done.stdout.strip().splitlines()
    seconds, mib, status = figures.split()
    return float(seconds), float(mib), int(status), " ".join(message)


def methods_of(kind, tools):
    if kind != "static":
        own = {"dynamic": ("dynamic",), "int4": ("int4", "int4_hqq")}[kind]
        return [("onnxruntime", m) for m in own if "onnxruntime" in tools]
    return [(tool, m) for tool in tools for m in peer_tools.TOOLS[tool][2]]


def histogram(target, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "optimized.onnx"
        session(target, threads, path)
        return dict(collections.Counter(n.op_type for n in onnx.load(path).graph.node))


class Model:
    """One model with its data, ready to be quantized by everybody."""

    def __init__(self, name, work, threads):
        self.name, self.work, self.threads = name, work, threads
        self.source, calib, self.evaluation, self.labels = datasets.job(name)
        self.calib_ours, self.calib_peer = work / f"{name}.calib.npz", work / f"{name}.peer.npz"
        datasets.save_npz(self.calib_ours, calib)
        np.savez(self.calib_peer, count=len(calib), names=" ".join(calib[0]),
                 **{f"{i}/{n}": a for i, f in enumerate(calib) for n, a in f.items()})
        self.session = session(self.source, threads)
        self.floats = [self.session.run(None, f) for f in self.evaluation]

    def command(self, tool, method, target):
        if tool != "qtool":
            return peer_tools.command(tool, method, self.source, target, self.calib_peer)
        data = ["--calib", self.calib_ours] if method in ("int8_static", "int8_fast") else []
        return [QTOOL, "quantize", self.source, "--recipe", method, "-o", target, *data, "--threads", self.threads, "--quiet"]

    def compare(self, kind, recipes, tools, rounds):
        """A row for each tool and method; those whose files run carry their `quality` and the times of all in turn."""
        rows = [{"model": self.name, "kind": kind, "tool": t, "method": m}
                for t, m in [("qtool", r) for r in recipes] + methods_of(kind, tools)]
        target = {id(r): self.work / f"{self.name}.{r['tool']}.{r['method']}.onnx" for r in rows}
        taken = {id(r): [] for r in rows}
        for r in rows:
            target[id(r)].unlink(missing_ok=True)
        for _ in range(rounds):
            for r in rows:
                if not taken[id(r)] or taken[id(r)][-1][2] == 0:
                    taken[id(r)].append(timed(self.command(r["tool"], r["method"], target[id(r)]), self.work))
        files = []
        for r in rows:
            seconds, mib, status, message = zip(*taken[id(r)])
            r |= {"seconds": statistics.median(seconds), "mib": statistics.median(mib)}
            if status[-1]:
                r["failure"] = message[-1].replace(f"{self.work}/", "")
                continue
            try:
                s = session(target[id(r)], self.threads)
                r["quality"] = Quality(self.floats, [s.run(None, f) for f in self.evaluation], self.labels)
                r |= {"bytes": target[id(r)].stat().st_size, "operators": histogram(target[id(r)], self.threads)}
                files.append((r, s))
            except Exception as error:  # a file that does not run is a result
                r["failure"] = str(error).splitlines()[0].replace(f"{self.work}/", "")
                r.pop("quality", None)
        times = latencies([self.session] + [s for _, s in files], self.evaluation[0], seconds=1.0 + len(files))
        for (r, _), ms in zip(files, times[1:]):
            r |= r["quality"].figures() | {"ms": [times[0], ms]}
        return rows


def verdict(row, rows):
    """A row of qtool against the peers of its model and kind: quality against the best of them in pairs; latency against the
    fastest that is not worse beyond the interval; time and memory against the least that any of them takes for a file that runs."""
    peers = [r for r in rows if r["tool"] != "qtool" and "quality" in r]
    facts = {"model": row["model"], "recipe": row["method"], "sqnr_db": row["sqnr_db"]}
    if not peers:
        return facts
    best = max(peers, key=lambda r: r["sqnr_db"])
    facts |= {"best": f"{best['tool']} {best['method']}", "against": intervals(row["quality"], best["quality"]),
              "seconds": row["seconds"] / min(r["seconds"] for r in peers), "mib": row["mib"] / min(r["mib"] for r in peers)}
    equal = [r["ms"][1] for r in peers if intervals(row["quality"], r["quality"])["sqnr_db"][1] <= 0]
    if equal:
        facts["ms"] = row["ms"][1] / min(equal)
    return facts


def misses(v):
    """What of the aims is not met: at least equal quality beyond the interval, latency within 2 %, a third of the time, half
    of the memory."""
    if "best" not in v:
        return "no peer's file runs"
    missed = [n for n in ("sqnr_db", "agreement") if n in v["against"] and v["against"][n][2] < 0]
    missed += ["kl"] if "kl" in v["against"] and v["against"]["kl"][1] > 0 else []
    missed += [n for n, most in (("ms", 1.02), ("seconds", 1 / 3), ("mib", 0.5)) if v.get(n, 0) > most]
    return ", ".join({"sqnr_db": "SQNR", "agreement": "top-1", "kl": "KL", "ms": "latency", "seconds": "time", "mib": "memory"}[n]
                     for n in missed)


def decibels(db):
    return f"{db:.2f}" if db < 200 else "exact"


def verdict_table(verdicts):
    lines = ["| model | recipe | SQNR dB | best peer | SQNR above it, dB (95 %) | top-1 above it (95 %) | KL above it (95 %) | latency | time | memory | missed |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for v in verdicts:
        line = f"| {v['model']} | {v['recipe']} | {decibels(v['sqnr_db'])} | "
        if "best" in v:
            spans = [v["against"].get(n) for n in ("sqnr_db", "agreement", "kl")]
            forms = ("+.2f", "+.2%", "+.2g")
            line += " | ".join([v["best"], *("{:{f}} ({:{f}} to {:{f}})".format(*s, f=f) if s else "" for s, f in zip(spans, forms)),
                                format(v["ms"], ".2f") if "ms" in v else "-", f"{v['seconds']:.2f}", f"{v['mib']:.2f}", ""])
        else:
            line += "none runs | | | | | | | "
        lines.append(line + misses(v) + " |")
    return "\n".join(lines)


def table(rows):
    lines = ["| model | tool | method | SQNR dB | KL | same top-1 | accuracy float -> quantized | ms float -> quantized | bytes | wall s | peak MiB |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        head = f"| {r['model']} | {r['tool']} | {r['method']} | "
        tail = f" | {r['seconds']:.2f} | {r['mib']:.0f} |"
        if "failure" in r:
            lines.append(head + f"fails: `{r['failure'][:110]}` | | | | | " + tail)
            continue
        classes = f"{r['kl']:.3g} | {r['agreement']:.2%}" if "kl" in r else " | "
        accuracy = f"{r['accuracy'][0]:.2%} -> {r['accuracy'][1]:.2%}" if "accuracy" in r else ""
        lines.append(head + f"{decibels(r['sqnr_db'])} | {classes} | {accuracy} | "
                     f"{r['ms'][0]:.3f} -> {r['ms'][1]:.3f} | {r['bytes']:,}" + tail)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(JOBS))
    parser.add_argument("--tools", default="onnxruntime", help="of " + ", ".join(peer_tools.TOOLS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="quantizations of each side; the median counts")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    work = datasets.ROOT / "build" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    all_rows, verdicts = [], []
    for name in args.models.split(","):
        model = Model(name, work, args.threads)
        for kind, recipes in JOBS[name]:
            rows = model.compare(kind, recipes, args.tools.split(","), args.rounds)
            verdicts += [verdict(r, rows) for r in rows if r["tool"] == "qtool" and "quality" in r]
            all_rows += [{k: v for k, v in r.items() if k != "quality"} for r in rows]
            print(table(all_rows[-len(rows):]), file=sys.stderr)
            if args.json:
                args.json.write_text(json.dumps({"rows": all_rows, "verdicts": verdicts}, indent=1))
    print(verdict_table(verdicts), table(all_rows), sep="\n\n")


if __name__ == "__main__":
    main()

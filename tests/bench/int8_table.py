# SPDX-License-Identifier: Apache-2.0
"""qtool beside onnxruntime.quantization (per-channel min-max, uint8 activations, int8 weights, opset raised and
quant_pre_process run first; dynamic int8 where static is not asked for): same model, same samples, same machine, same
run. Prints a Markdown table and, with --json, the figures.

    build/venv/bin/python tests/bench/int8_table.py [--models resnet20,...] [--threads 2] [--rounds 3]
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
from measure import latency_pair, session, sqnr_db

QTOOL = os.environ.get("QTOOL", str(datasets.ROOT / "build" / "release" / "qtool"))
# model, recipe of qtool, method of the peer
JOBS = [
    ("resnet20", "int8_static", "static"),
    ("mnist8", "int8_static", "static"),
    ("squeezenet", "int8_static", "static"),
    ("self_attention", "int8_static", "static"),
    ("tashkeel", "int8_dynamic", "dynamic"),
    ("tashkeel", "int8_static", "static"),
]

PEER = r"""
import sys, numpy as np, onnx, onnx.version_converter, logging
logging.disable(logging.WARNING)
from onnxruntime.quantization import (CalibrationDataReader, CalibrationMethod, QuantType, quantize_dynamic, quantize_static)
from onnxruntime.quantization.shape_inference import quant_pre_process
source, target, calib, method = sys.argv[1:5]
model = onnx.load(source)
pre = target + ".pre.onnx"
if model.opset_import[0].version < 13:
    model = onnx.version_converter.convert_version(model, 13)
onnx.save(model, pre)
quant_pre_process(pre, pre, skip_symbolic_shape="tashkeel" not in source)
class Reader(CalibrationDataReader):
    def __init__(self):
        data = np.load(calib, allow_pickle=False)
        count = int(data["count"])
        self.feeds = iter([{n: data[f"{i}/{n}"] for n in str(data["names"]).split()} for i in range(count)])
    def get_next(self):
        return next(self.feeds, None)
if method == "dynamic":
    quantize_dynamic(pre, target, per_channel=True)
else:
    quantize_static(pre, target, Reader(), per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax)
"""


def timed(command):
    """Seconds, peak resident MiB and exit status of a whole process; OPENBLAS_CORETYPE unset for both sides."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    # A small parent of its own: a forked child's peak would otherwise start at the size of this process.
    script = ("import resource,subprocess,sys,time\nt=time.perf_counter()\n"
              "r=subprocess.run(sys.argv[1:],capture_output=True,text=True,errors='replace')\n"
              "print('\\n'.join(r.stderr.strip().splitlines()[-1:]))\n"
              "print(time.perf_counter()-t,resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024,r.returncode)")
    done = subprocess.run([sys.executable, "-S", "-c", script, *map(str, command)], env=environment, capture_output=True,
                          text=True, check=True)
    *message, figures = done.stdout.strip().splitlines()
    seconds, mib, status = figures.split()
    return float(seconds), float(mib), int(status), " ".join(message)


def log_softmax(z):
    z = z.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def judge(source, target, evaluation, labels, threads):
    pair = [session(p, threads) for p in (source, target)]
    runs = [[s.run(None, f) for f in evaluation] for s in pair]
    # the first float output with class scores along its last (or only non-trivial) axis
    k = next(i for i, o in enumerate(runs[0][0]) if o.dtype.kind == "f")
    scores = [np.concatenate([o[k].reshape(-1, max(o[k].shape)) if o[k].ndim == 4 else o[k].reshape(-1, o[k].shape[-1])
                              for o in run]) for run in runs]
    a, b = scores
    result = {"sqnr_db": sqnr_db(a, b), "agreement": float((a.argmax(-1) == b.argmax(-1)).mean())}
    logs = [np.log(np.maximum(z.astype(np.float64), 1e-12)) if (a >= 0).all() and abs(a.sum(-1) - 1).max() < 1e-3
            else log_softmax(z) for z in scores]
    result["kl"] = float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean())
    if labels is not None:
        result["accuracy"] = [float((z.argmax(-1) == labels).mean()) for z in scores]
    result["ms"] = latency_pair(*pair, evaluation[0])
    return result


def histogram(target, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "optimized.onnx"
        session(target, threads, path)
        return dict(collections.Counter(n.op_type for n in onnx.load(path).graph.node))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="quantizations of each side; the median counts")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    work = datasets.ROOT / "build" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, recipe, method in JOBS:
        if args.models and name not in args.models.split(","):
            continue
        source, calib, evaluation, labels = datasets.job(name)
        ours_calib, peer_calib = work / f"{name}.calib", work / f"{name}.peer.npz"
        ours_calib = write_calibration(ours_calib, calib)
        np.savez(peer_calib, count=len(calib), names=" ".join(calib[0]),
                 **{f"{i}/{n}": a for i, f in enumerate(calib) for n, a in f.items()})
        targets = {"qtool": work / f"{name}.{recipe}.qtool.onnx", "onnxruntime": work / f"{name}.{method}.ort.onnx"}
        commands = {
            "qtool": [QTOOL, "quantize", source, "--recipe", recipe, "-o", targets["qtool"], "--calib", ours_calib,
                      "--threads", args.threads, "--quiet"],
            "onnxruntime": [sys.executable, "-c", PEER, source, targets["onnxruntime"], peer_calib, method],
        }
        figures = {tool: [] for tool in commands}
        for _ in range(args.rounds):
            for tool, command in commands.items():
                figures[tool].append(timed(command))
        for tool in commands:
            seconds, mib, status, message = (statistics.median(c) if i < 2 else c[-1] for i, c in enumerate(zip(*figures[tool])))
            row = {"model": name, "method": method, "tool": tool, "seconds": seconds, "mib": mib}
            if status:
                row["failure"] = message
            else:
                try:
                    row |= judge(source, targets[tool], evaluation, labels, args.threads)
                    row |= {"bytes": targets[tool].stat().st_size, "operators": histogram(targets[tool], args.threads)}
                except Exception as error:  # a file that does not run is a result
                    row["failure"] = str(error).splitlines()[0]
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def write_calibration(stem, feeds):
    """npz when all feeds have one shape, else a folder of ONNX test data sets."""
    if len({tuple(sorted((n, a.shape[1:]) for n, a in f.items())) for f in feeds}) == 1:
        path = stem.with_suffix(".npz")
        datasets.save_npz(path, feeds)
        return path
    raise ValueError("feeds of different shapes")


def table(rows):
    lines = ["| model | method | tool | SQNR dB | KL | same top-1 | accuracy float -> int8 | ms float -> int8 | bytes | wall s | peak MiB |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        head = f"| {r['model']} | {r['method']} | {r['tool']} | "
        tail = f" | {r['seconds']:.2f} | {r['mib']:.0f} |"
        if "failure" in r:
            lines.append(head + f"fails: {r['failure'][:160]} | | | | | " + tail)
            continue
        accuracy = f"{r['accuracy'][0]:.2%} -> {r['accuracy'][1]:.2%}" if "accuracy" in r else ""
        lines.append(head + f"{r['sqnr_db']:.2f} | {r['kl']:.3g} | {r['agreement']:.2%} | {accuracy} | "
                     f"{r['ms'][0]:.3f} -> {r['ms'][1]:.3f} | {r['bytes']:,}" + tail)
    return "\n".join(lines)


if __name__ == "__main__":
    main()

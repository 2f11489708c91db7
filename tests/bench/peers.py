# SPDX-License-Identifier: Apache-2.0
"""qtool beside onnxruntime.quantization: same model, same samples, same machine, same run. The peer runs per channel
with uint8 activations and int8 weights, opset raised and quant_pre_process run first, in each of its calibrations
(minmax, entropy, percentile), its dynamic form and its 4-bit weight-only form. Prints a Markdown table and, with --json,
the figures.

    build/venv/bin/python tests/bench/peers.py [--models resnet20,...] [--threads 2] [--rounds 3]

SQNR is that of the worst float output; KL and top-1 are those of the first one with class scores along its last (or
only non-trivial) axis. Figures count outputs on held-out data that neither side has seen.
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
STATIC = [("int8_static", ("minmax", "entropy", "percentile")), ("int8_fast", ())]
DYNAMIC = [("int8_dynamic", ("dynamic",))]
FOUR_BITS = [("int4_weights", ("int4", "int4_hqq"))]
# model: recipes of qtool, each with the methods of the peer beside it
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
quant_pre_process(pre, pre, skip_symbolic_shape="tashkeel" not in source, auto_merge=True)
class Reader(CalibrationDataReader):
    def __init__(self):
        data = np.load(calib, allow_pickle=False)
        count = int(data["count"])
        self.feeds = iter([{n: data[f"{i}/{n}"] for n in str(data["names"]).split()} for i in range(count)])
    def get_next(self):
        return next(self.feeds, None)
if method == "dynamic":
    quantize_dynamic(pre, target, per_channel=True)
elif method.startswith("int4"):
    from onnxruntime.quantization.matmul_nbits_quantizer import (DefaultWeightOnlyQuantConfig, HQQWeightOnlyQuantConfig,
                                                                 MatMulNBitsQuantizer)
    config = (HQQWeightOnlyQuantConfig(block_size=32, bits=4) if method == "int4_hqq"
              else DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4))
    quantizer = MatMulNBitsQuantizer(onnx.load(pre), block_size=32, is_symmetric=True, accuracy_level=4, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(target)
else:
    how = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}
    quantize_static(pre, target, Reader(), per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8, calibrate_method=how[method])
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
    floats = [i for i, o in enumerate(runs[0][0]) if o.dtype.kind == "f"]
    worst = min(sqnr_db(*(np.concatenate([o[i].ravel() for o in run]) for run in runs)) for i in floats)
    result = {"sqnr_db": worst, "agreement": float((a.argmax(-1) == b.argmax(-1)).mean())}
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
    for name, comparisons in JOBS.items():
        if args.models and name not in args.models.split(","):
            continue
        source, calib, evaluation, labels = datasets.job(name)
        calib_ours = write_calibration(work / f"{name}.calib", calib)
        calib_peer = work / f"{name}.peer.npz"
        np.savez(calib_peer, count=len(calib), names=" ".join(calib[0]),
                 **{f"{i}/{n}": a for i, f in enumerate(calib) for n, a in f.items()})
        for recipe, methods in comparisons:
            target = {m: work / f"{name}.{m}.onnx" for m in (recipe, *methods)}
            data = ["--calib", calib_ours] if recipe in ("int8_static", "int8_fast") else []
            commands = {recipe: [QTOOL, "quantize", source, "--recipe", recipe, "-o", target[recipe], *data, "--threads",
                                 args.threads, "--quiet"]}
            commands |= {m: [sys.executable, "-c", PEER, source, target[m], calib_peer, m] for m in methods}
            figures = {method: [] for method in commands}
            for _ in range(args.rounds):
                for method, command in commands.items():
                    figures[method].append(timed(command))
            for method, taken in figures.items():
                seconds, mib, status, message = (statistics.median(c) if i < 2 else c[-1] for i, c in enumerate(zip(*taken)))
                row = {"model": name, "tool": "qtool" if method == recipe else "onnxruntime", "method": method,
                       "seconds": seconds, "mib": mib}
                if status:
                    row["failure"] = message
                else:
                    try:
                        row |= judge(source, target[method], evaluation, labels, args.threads)
                        row |= {"bytes": target[method].stat().st_size, "operators": histogram(target[method], args.threads)}
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
    lines = ["| model | tool | method | SQNR dB | KL | same top-1 | accuracy float -> int8 | ms float -> int8 | bytes | wall s | peak MiB |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        head = f"| {r['model']} | {r['tool']} | {r['method']} | "
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

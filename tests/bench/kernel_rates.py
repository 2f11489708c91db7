# SPDX-License-Identifier: Apache-2.0
"""Where the rates of backends/ort_cpu/rates.cpp come from: quantizes every real model that carries a reference input,
lets ONNX Runtime profile float and quantized form on one thread, and fits non-negative rates per kernel class. Then
tells for each model what `qtool quantize` estimates beside what was measured.

    build/venv/bin/python tests/bench/kernel_rates.py [--models yunet,...] [--recipes int8_static,int8_dynamic]

The profiler adds about 2 us to every node, and node times are whole microseconds: the rates per call in the table were
lowered from the fitted ones until whole models agreed.
"""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from scipy.optimize import nnls

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "samples"))
import datasets
from peers import QTOOL
from measure import latencies, session

PROFILER_US = 2.3
LANES, TILE = 16, 64
KERNELS = {"Conv": "float", "FusedConv": "float", "MatMul": "float", "QLinearConv": "codes", "QLinearMatMul": "codes",
           "MatMulIntegerToFloat": "codes", "DynamicQuantizeMatMul": "dynamic"}


def up(n, step):
    return -(-n // step) * step


def profile(path, feeds, folder, rounds=40):
    """Per node: name, operator, shapes, microseconds (the fastest tenth)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    s = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(rounds):
        s.run(None, feeds)
    nodes = {}
    for event in json.loads(pathlib.Path(s.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            args = event["args"]
            shapes = [[list(t.values())[0] for t in args.get(k) or []] for k in ("input_type_shape", "output_type_shape")]
            nodes.setdefault(event["name"][:-12], (args["op_name"], *shapes, []))[3].append(event["dur"])
    return [(name, op, ins, outs, float(np.percentile(t, 10))) for name, (op, ins, outs, t) in nodes.items()]


def conv_weights(path):
    """Shapes of the weights behind DequantizeLinear, by the Conv's name: the profile leaves packed weights out."""
    graph = onnx.load(path).graph
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return {n.name or n.output[0]: shapes.get(n.input[1]) for n in graph.node if n.op_type == "Conv"}


def work(op, name, ins, outs, weights):
    """(kernel class, columns, channels, taps, rows) as formats/latency.h counts them; None: not a product."""
    if op not in KERNELS or not ins or not outs or not ins[0] or not outs[0]:
        return None
    x, y = ins[0], outs[0]
    if "Conv" not in op:
        return op, y[-1], x[-1], 1, int(np.prod(y)) // y[-1]
    w = weights.get(re.sub(r"_token_\d+$", "", name)) if op == "QLinearConv" else ins[1]
    if not w or len(w) < 3 or (op != "QLinearConv" and "nchwc" not in name):
        return None
    taps, columns = int(np.prod(w[2:])), w[0]
    channels_last = op == "QLinearConv" and y[-1] == columns
    depthwise = w[1] == 1 and (x[-1] if channels_last else x[1]) > 1
    kind = "Conv"
    if depthwise:
        kind = "Conv depthwise" if columns % LANES == 0 else "Conv depthwise ragged"
    elif taps == 1:
        kind = "Conv 1x1"
    elif w[1] <= 4:
        kind = "Conv few channels"
    return f"{kind}, {KERNELS[op]}", columns, w[1], taps, int(np.prod(y)) // columns


def parts(kind, columns, channels, taps, rows):
    codes = "codes" in kind
    depth = channels * taps
    macs = rows * up(columns, LANES if "depthwise" not in kind else 1) * (up(depth, TILE) if codes else depth)
    return [1, macs, rows * columns, rows * channels, rows * taps * (taps > 1), rows * (columns % LANES > 0),
            columns * depth * ("Mat" in kind)]


def fit(samples):
    print("| kernel | nodes | call | mac | out | in | tap | ragged | weight | estimate / measured, 10-50-90 % |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind, rows in sorted(samples.items()):
        a = np.array([parts(kind, *r[:-1]) for r in rows], float)
        us = np.array([max(r[-1] - PROFILER_US, 0.3) for r in rows])
        weight = 1 / np.maximum(us, 4)  # relative errors count, not those of a profiler's tick
        rates, _ = nnls(a * weight[:, None], us * weight)
        spread = np.percentile(a @ rates / us, [10, 50, 90])
        print(f"| {kind} | {len(rows)} | " + " | ".join(f"{1e3 * r:.4g}" for r in rates) + " | "
              + " - ".join(f"{s:.2f}" for s in spread) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="", help="parts of file names")
    parser.add_argument("--recipes", default="int8_static,int8_dynamic")
    args = parser.parse_args()
    samples, lines = collections.defaultdict(list), []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for source in sorted((datasets.DATA / "models").rglob("*.onnx")):
            if not source.with_suffix(".ref.json").exists() or not any(m in source.stem for m in args.models.split(",")):
                continue
            feeds = datasets.reference_inputs(source)
            np.savez(folder / "data.npz", **feeds)
            for recipe in args.recipes.split(","):
                written, report = folder / "q.onnx", folder / "q.json"
                command = [QTOOL, "quantize", source, "--recipe", recipe, "-o", written, "--json", report, "--quiet"]
                command += ["--calib", folder / "data.npz"] if recipe == "int8_static" else []
                if subprocess.run([str(c) for c in command], capture_output=True).returncode:
                    continue
                pair = [source, written]
                ms = latencies([session(p, 1) for p in pair], feeds, seconds=1.0)
                weights = conv_weights(written)
                for path in pair:
                    for node, op, ins, outs, us in profile(path, feeds, folder):
                        if known := work(op, node, ins, outs, weights):
                            samples[known[0]].append((*known[1:], us))
                estimate = json.loads(report.read_text())["latency"]
                told = f"{estimate['float_ms'] / estimate['quantized_ms']:.2f}" if estimate else "-"
                lines.append(f"| {source.stem} | {recipe} | {ms[0]:.3f} | {ms[1]:.3f} | {ms[0] / ms[1]:.2f} | {told} |")
                print(lines[-1], file=sys.stderr)
    fit(samples)
    print("\n| model | recipe | float, ms | quantized, ms | faster, measured | faster, estimated |\n|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

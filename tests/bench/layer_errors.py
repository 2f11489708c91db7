# SPDX-License-Identifier: Apache-2.0
"""Errors of layers on real inputs, tr(E H E^T), beside GPTQ in float64 as the papers have it (tests/oracle/gptq_codes.py, damping
and groups the same), for every MatMul of a language model but its head. Both sides see inputs of the float model.

    build/bench/venv-onnxruntime/bin/python tests/bench/layer_errors.py [--qtool build/release/qtool] [--model byte_llama]
        [--bits 4 3 2] [--group 32]

PyTorch lives in that environment (tests/bench/peer_tools.py installs it at the first call of tests/bench/solver.py)."""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "oracle"))
import gptq_codes
import layers
import sequences


def inputs_of(job, names):
    """Rows of the inputs of these nodes over all calibration windows."""
    model = onnx.load(job.model)
    seen = {n.name: n.input[0] for n in model.graph.node if n.name in names}
    model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in sorted(set(seen.values())))
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name, windows), = job.calib.items()
    parts = {}
    for i in range(0, len(windows), 16):
        found = run.run(sorted(set(seen.values())), {name: windows[i : i + 16]})
        for v, x in zip(sorted(set(seen.values())), found):
            parts.setdefault(v, []).append(x.reshape(-1, x.shape[-1]))
    return {n: np.concatenate(parts[v]).astype(np.float64) for n, v in seen.items()}


def unpacked(packed, bits, count):
    per = 8 // bits
    codes = (packed[..., None] >> (np.arange(per) * bits)) & (2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


def dequantized(node, constants):
    """Weight [N, K] of a MatMulNBits."""
    a = {x.name: x.i for x in node.attribute}
    blocks = -(-a["K"] // a["block_size"])
    codes = unpacked(constants[node.input[1]].reshape(a["N"], blocks, -1), a["bits"], a["block_size"])
    scale = constants[node.input[2]].reshape(a["N"], blocks, 1).astype(np.float64)
    zero = np.full((a["N"], blocks), 2 ** (a["bits"] - 1))
    if len(node.input) > 3 and node.input[3]:
        zero = unpacked(constants[node.input[3]].reshape(a["N"], -1), a["bits"], blocks)
    return ((codes - zero[..., None].astype(np.float64)) * scale).reshape(a["N"], -1)[:, : a["K"]]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qtool", default="build/release/qtool")
    p.add_argument("--model", default="byte_llama")
    p.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    p.add_argument("--group", type=int, default=32)
    o = p.parse_args()
    job = sequences.job(o.model)
    floats = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(job.model).graph.initializer}
    weight = {n.name: n.input[1] for n in onnx.load(job.model).graph.node if n.op_type == "MatMul"}
    for bits in o.bits:
        with tempfile.TemporaryDirectory() as folder:
            recipe, data, out = (pathlib.Path(folder, f) for f in ("r.yaml", "calib.npz", "q.onnx"))
            recipe.write_text(layers.recipe(job, bits, o.group, ["gptq: {inputs: float}"]))
            np.savez(data, **job.calib)
            env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
            subprocess.run([o.qtool, "quantize", job.model, "-q", "-o", out, "--recipe", recipe, "--calib", data], check=True,
                           env=env, stderr=subprocess.DEVNULL)
            graph = onnx.load(out).graph
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        ours = {n.name: dequantized(n, constants) for n in graph.node if n.op_type == "MatMulNBits"}
        rows = inputs_of(job, ours)
        ratios = {"in order": [], "act-order": []}
        for name, q in ours.items():
            x, w = torch.from_numpy(rows[name]), torch.from_numpy(floats[weight[name]].T.copy())
            h = 2 / len(x) * x.T @ x
            error = lambda e: float(((e @ h) * e).sum())
            for order, by in (("in order", gptq_codes.NONE), ("act-order", gptq_codes.ACT)):
                grid = gptq_codes.Grid(bits, gptq_codes.ASYMMETRIC)
                codes, s, z, _ = gptq_codes.gptq(x, w, grid, o.group, 0, by, 0, 0)
                plane = torch.arange(w.shape[1]) // o.group
                ratios[order].append(error(torch.from_numpy(q) - w) / error((codes - z.T[:, plane]) * s.T[:, plane] - w))
        for order, r in ratios.items():
            print(f"{o.model}, {bits} bits, groups of {o.group}: error to the reference's ({order}), {len(r)} layers: "
                  f"median {np.median(r):.3f}, largest {max(r):.3f}", flush=True)


if __name__ == "__main__":
    main()

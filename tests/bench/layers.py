# SPDX-License-Identifier: Apache-2.0
"""Weight-only methods on a language model: held-out KL to the float model, nats per token and equal top-1, in ONNX Runtime.

    tests/bench/layers.py [--qtool build/release/qtool] [--eval-windows 512] [--model M.onnx --tokens T.npz] RECIPE ...

Recipes are files or names. `T.npz`: token ids [windows, length], arrays "calib" and "eval". Without them: calibration: 64 windows of 128 bytes of the first 90 %; evaluation: the first windows of the last 10 %
(byte_llama_shakespeare); activations inside the kernels stay float where the recipe says `exact_inside`.
"""
import argparse
import os
import pathlib
import subprocess
import tempfile

import numpy as np
import onnxruntime

import datasets


def logits(path, ids):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input_ids": ids[i : i + 16]})[0] for i in range(0, len(ids), 16)])


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--qtool", default="build/release/qtool")
    p.add_argument("--eval-windows", type=int, default=512)
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--model")
    p.add_argument("--tokens")
    p.add_argument("recipes", nargs="+")
    args = p.parse_args()
    name, _, calib, _, _ = datasets.byte_llama()
    model = datasets.DATA / "models" / (name + ".onnx")
    text = np.frombuffer((datasets.DATA / "datasets/text/tinyshakespeare.txt").read_bytes(), np.uint8).astype(np.int64)
    tail = text[len(text) * 9 // 10 :]
    held = tail[: args.eval_windows * 128].reshape(-1, 128)
    if args.model:
        tokens = np.load(args.tokens)
        model, calib, held = args.model, tokens["calib"], tokens["eval"]
    reference = log_softmax(logits(model, held))
    right = held[:, 1:, None]
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "calib.npz")
        np.savez(data, input_ids=calib)
        print("recipe                              KL     nats/token  agree %    bytes  user s")
        print(f"{'float':28} {0:12.5f} {-np.take_along_axis(reference[:, :-1], right, -1).mean():10.4f}")
        for recipe in args.recipes:
            out = pathlib.Path(folder, "q.onnx")
            out.unlink(missing_ok=True)
            env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
            before = os.times()
            done = subprocess.run([args.qtool, "quantize", model, "-o", out, "--recipe", recipe, "--calib", data,
                                   *[x for s in args.set for x in ("--set", s)]], capture_output=True, text=True, env=env)
            after = os.times()
            if done.returncode:
                print(f"{pathlib.Path(recipe).name:28} exit {done.returncode}: {done.stderr.strip().splitlines()[:1]}")
                continue
            found = log_softmax(logits(out, held))
            kl = (np.exp(reference) * (reference - found)).sum(-1).mean()
            nats = -np.take_along_axis(found[:, :-1], right, -1).mean()
            agree = 100 * (reference.argmax(-1) == found.argmax(-1)).mean()
            print(f"{pathlib.Path(recipe).name:28} {kl:12.5f} {nats:10.4f} {agree:9.2f} {out.stat().st_size:9d} "
                  f"{after.children_user - before.children_user:6.2f}", flush=True)


if __name__ == "__main__":
    main()

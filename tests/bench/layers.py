# SPDX-License-Identifier: Apache-2.0
"""Weight-only methods on a model: KL of held-out predictions to the float model (nats), equal top-1, SQNR of the scores, in
ONNX Runtime.

    tests/bench/layers.py [--qtool build/release/qtool] [--model NAME | --model M.onnx --tokens T.npz] [RECIPE ...]

NAME is one of tests/bench/sequences.py (default byte_llama) or a classifier of tests/bench/datasets.py. With recipes, files or
names, one row for each. Without, the ladder: round_nearest, hqq, gptq and gptq as in the recipes wN_gptq, in 4, 3 and 2 bits
and groups of 32 and 64, weights asymmetric, activations in float inside the kernels.
"""
import argparse
import os
import pathlib
import subprocess
import tempfile

import numpy as np

import sequences
from quality import log_probabilities

METHODS = {"round_nearest": [], "hqq": ["hqq"], "gptq": ["gptq"],
           "gptq, refined": ["gptq: {asymmetric: 0.5, sweeps: 3, refit: 1}"]}


def recipe(job, bits, group, passes):
    steps = ["fold_constants", "fold_batch_norm", "fuse_norm",
             f"assign_formats: {{method: weights, weights: uint{bits}, grain: groups, group: {group}, symmetric: false, "
             "exact_inside: true}", *passes, "round_nearest"]
    rules = ["{where: {region: last}, keep: float}"] * (job.head == "float")
    rules += ["{where: {op: Conv}, grain: channel}"] * job.convolutions
    return "\n".join(["version: 1", f"target: {job.target}", "data: {}", "steps:",
                      *(f"  - {s}" for s in steps), *["rules:"][: len(rules)], *(f"  - {r}" for r in rules), ""])


def ladder(job, bits, groups, folder):
    for b in bits:
        for g in groups:
            for method, passes in METHODS.items():
                path = pathlib.Path(folder, "ladder.yaml")
                path.write_text(recipe(job, b, g, passes))
                yield f"{b} bits, {g:3d}: {method}", path


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--qtool", default="build/release/qtool")
    p.add_argument("--model", default="byte_llama")
    p.add_argument("--tokens")
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    p.add_argument("--groups", type=int, nargs="+", default=[32, 64])
    p.add_argument("recipes", nargs="*")
    args = p.parse_args()
    job = sequences.tokens(args.model, args.tokens) if args.tokens else sequences.job(args.model)
    scores = sequences.outputs(job.model, job)
    probabilities = (scores >= 0).all() and abs(scores.sum(-1) - 1).max() < 1e-3
    reference = log_probabilities(scores, probabilities)
    right = lambda x: f"{100 * (x.argmax(-1) == job.labels).mean():8.2f}" if job.labels is not None else ""
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "calib.npz")
        np.savez(data, **job.calib)
        print(f"{args.model:28} {len(reference)} predictions {right(reference)}")
        print(f"{'recipe':28}        KL +- error of it   agree %  SQNR dB     bytes  user s")
        rows = [(pathlib.Path(r).name, r) for r in args.recipes] or ladder(job, args.bits, args.groups, folder)
        for name, file in rows:
            out = pathlib.Path(folder, "q.onnx")
            out.unlink(missing_ok=True)
            env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
            before = os.times()
            done = subprocess.run([args.qtool, "quantize", job.model, "-o", out, "--recipe", file, "--calib", data,
                                   *[x for s in args.set for x in ("--set", s)]], capture_output=True, text=True, env=env)
            after = os.times()
            if done.returncode:
                print(f"{name:28} exit {done.returncode}: {done.stderr.strip().splitlines()[:1]}")
                continue
            got = sequences.outputs(out, job)
            found = log_probabilities(got, probabilities)
            kl = (np.exp(reference) * (reference - found)).sum(-1)
            agree = 100 * (reference.argmax(-1) == found.argmax(-1)).mean()
            noise = ((got.astype(np.float64) - scores) ** 2).sum()
            sqnr = 10 * np.log10((scores.astype(np.float64) ** 2).sum() / noise) if noise > 0 else np.inf
            print(f"{name:28} {kl.mean():9.5f} +- {kl.std() / len(kl) ** 0.5:.5f} {agree:9.2f} {sqnr:8.2f} "
                  f"{out.stat().st_size:9d} {after.children_user - before.children_user:6.2f} {right(found)}", flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The parts of GPTQ on one layer, 4 bit, beside the same work in PyTorch float32 on as many threads of the CPU, and beside
OpenBLAS's best product and the processor's peak. "rounded" is the Hessian of inputs rounded to bfloat16 (knob
`products: bf16`), beside PyTorch's in float32. Both sides are processes of their own, run in turn; medians. Flops are
counted as T n^2 (Hessian), n^3 / 3 (factorization) and m n^2 (columns) on both sides, whatever they compute.

    build/venv/bin/python tests/bench/solver.py [--rows 4096] [--columns 4096] [--tokens 65536] [--group 128] [--threads 2]

PyTorch lives in build/bench/venv-onnxruntime (tests/bench/peer_tools.py installs it at the first call: gigabytes)."""
import argparse
import os
import pathlib
import statistics
import subprocess

import datasets
import peer_tools

BUILD = pathlib.Path(os.environ.get("QTOOL_BUILD", datasets.ROOT / "build" / "release"))

# The reference form of the papers: H = X^T X in full, Cholesky, inverse, Cholesky of the inverse, lazy blocks of 128.
PEER = r"""
import sys, time, torch
m, n, tokens, group, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.set_grad_enabled(False)

def timed(part, flops, f):
    wall, busy = time.perf_counter(), time.process_time()
    out = f()
    print(part, time.perf_counter() - wall, time.process_time() - busy, flops, flush=True)
    return out

def hessian():
    h = torch.zeros(n, n)
    for begin in range(0, tokens, 2048):
        rows = x[: min(2048, tokens - begin)]
        h.addmm_(rows.T, rows, alpha=2 / tokens)
    return h

def factor():
    h.diagonal().add_(0.01 * h.diagonal().mean())
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)

def columns():
    w, q = weights.clone(), torch.empty_like(weights)
    for i1 in range(0, n, 128):
        i2 = min(n, i1 + 128)
        now, error, block = w[:, i1:i2].clone(), torch.empty(m, i2 - i1), r[i1:i2, i1:i2]
        for c in range(i2 - i1):
            if (i1 + c) % group == 0:
                part = w[:, i1 + c : i1 + c + group]
                low, high = part.min(1).values.clamp(max=0), part.max(1).values.clamp(min=0)
                s = (high - low) / 15
                z = torch.round(-low / s)
            v = now[:, c]
            k = (torch.round(v / s) + z).clamp(0, 15)
            q[:, i1 + c] = s * (k - z)
            e = (v - q[:, i1 + c]) / block[c, c]
            now[:, c:] -= e[:, None] * block[c, c:]
            error[:, c] = e
        w[:, i2:] -= error @ r[i1:i2, i2:]
    return q

torch.manual_seed(1)
x, weights = torch.rand(2048, n) - 0.5, torch.rand(m, n) - 0.5
warm = x.T @ x
h = timed("hessian", tokens * n * n, hessian)
r = timed("factor", n ** 3 / 3, factor)
timed("columns", m * n * n, columns)
"""


def run(command, env, found):
    for line in subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines():
        part, *figures = line.split()
        if len(figures) == 3:
            found.setdefault(part, []).append([float(f) for f in figures])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 4096, "columns": 4096, "tokens": 65536, "group": 128, "threads": 2, "rounds": 3}.items():
        parser.add_argument("--" + name, type=int, default=value)
    o = parser.parse_args()
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    words = [str(v) for v in (o.rows, o.columns, o.tokens, o.group, o.threads)]
    ours, theirs = {}, {}
    for _ in range(o.rounds):
        run([BUILD / "tests" / "qtool_solver_bench", *words], env, ours)
        run([peer_tools.python_of("onnxruntime"), "-c", PEER, *words], env, theirs)
    middle = {side: {part: [statistics.median(f) for f in zip(*all)] for part, all in found.items()}
              for side, found in (("qtool", ours), ("torch", theirs))}
    print(f"{o.rows} x {o.columns}, {o.tokens} tokens, 4 bit, groups of {o.group}, {o.threads} threads\n")
    print(f"{'':16}{'qtool: s':>10}{'cpu s':>8}{'GFLOP/s':>9}{'torch: s':>12}{'cpu s':>8}{'GFLOP/s':>9}{'ratio':>8}{'cpu':>7}")
    sums = {}
    middle["torch"]["rounded"] = middle["torch"]["hessian"]
    for part in ("peak", "gemm", "hessian", "rounded", "factor", "columns"):
        line = f"{part:16}"
        for side, width in (("qtool", 10), ("torch", 12)):
            if part not in middle[side]:
                continue
            wall, busy, flops = middle[side][part]
            line += f"{wall:{width}.3f}{busy:8.3f}{flops / wall / 1e9:9.1f}"
        if part in middle["torch"]:
            a, b = middle["qtool"][part], middle["torch"][part]
            line += f"{b[0] / a[0]:8.2f}{b[1] / a[1]:7.2f}"
            for side, f in (("qtool", a), ("torch", b)):
                if part != "rounded":
                    sums[side] = [s + x for s, x in zip(sums.get(side, [0, 0]), f)]
        print(line)
    saved = [a - b for a, b in zip(middle["qtool"]["hessian"], middle["qtool"]["rounded"])]
    print(f"\nratio to torch in processor time: {sums['torch'][1] / sums['qtool'][1]:.2f} x")
    print(f"ratio to torch with inputs rounded to bfloat16: {sums['torch'][0] / (sums['qtool'][0] - saved[0]):.2f} x")
    print(f"ratio to torch: {sums['torch'][0] / sums['qtool'][0]:.2f} x")


if __name__ == "__main__":
    main()

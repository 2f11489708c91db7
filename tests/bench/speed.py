# SPDX-License-Identifier: Apache-2.0
"""qtool's executor beside ONNX Runtime: milliseconds of one run of models that are loaded already, and the memory that
loading and running took. Both sides are processes of their own, take the same feeds and are run in turn, in bursts, so
that a busy machine slows both; medians over all runs. Answers are compared first. Then float products through our
linalg beside the fastest kernels of every OpenBLAS at hand. Prints Markdown tables and, with --json, the figures.

    build/venv/bin/python tests/bench/speed.py [--models resnet20,...] [--threads 1,2] [--seconds 4]
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import datasets

BUILD = pathlib.Path(os.environ.get("QTOOL_BUILD", datasets.ROOT / "build" / "release"))
MODELS = {
    "resnet20": "vision/resnet20_cifar10_op10", "squeezenet": "vision/squeezenet_fp32_op7",
    "nanodet": "vision/nanodet_m_320_op11", "yolox": "vision/yolox_nano_op11",
    "ultraface": "vision/ultraface_rfb320_op9", "super_resolution": "vision/super_resolution_op15",
    "fns_candy": "vision/fns_candy_op7", "deeplab": "vision/deeplab_dm05_op8", "dnsmos": "audio/dnsmos_sig_bak_ovr_op12",
    "tashkeel": "text/tashkeel_fp32_op16", "nnsplit": "text/nnsplit_en_lstm_op9", "stories260K": "lm/stories260K_op14",
}
SIZES = [256, 512, 1024, 2048]
CORES = ["SkylakeX", "Cooperlake", "Sapphirerapids", "Haswell", "Zen"]

PEER = r"""
import sys, time
import numpy as np, onnxruntime

def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return float(line.split()[1]) / 1024

threads, model, data = sys.argv[1:4]
feeds = {n: a[0] for n, a in np.load(data).items()}
before = memory("VmRSS")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
for line in sys.stdin:
    request, *words = line.split()
    answer = [0.0]
    if request == "run":
        answer = []
        for _ in range(int(words[0])):
            processor, start = time.process_time(), time.perf_counter()
            session.run(None, feeds)
            answer += [(time.perf_counter() - start) * 1e3, (time.process_time() - processor) * 1e3]
    elif request == "save":
        np.savez(words[0], **{o.name: v for o, v in zip(session.get_outputs(), session.run(None, feeds))})
    elif request == "peak":
        answer = [memory("VmHWM") - before]
    print(*answer, flush=True)
"""

# cblas_sgemm of the library named first, which was loaded with the core and the threads that the environment says.
BLAS = r"""
import ctypes, sys, time
import numpy as np
lib = ctypes.CDLL(sys.argv[1])
sgemm = getattr(lib, sys.argv[2])
index = ctypes.c_int64 if "64_" in sys.argv[2] else ctypes.c_int
sgemm.argtypes = [ctypes.c_int] * 3 + [index] * 3 + [ctypes.c_float, ctypes.c_void_p, index, ctypes.c_void_p, index,
                                                     ctypes.c_float, ctypes.c_void_p, index]
for line in sys.stdin:
    _, count, n = line.split()
    n = int(n)
    a, b, c = (np.full((n, n), 0.5, np.float32) for _ in range(3))
    answer = []
    for _ in range(int(count)):
        processor, start = time.process_time(), time.perf_counter()
        sgemm(101, 111, 111, n, n, n, 1.0, a.ctypes.data, n, b.ctypes.data, n, 0.0, c.ctypes.data, n)
        answer += [(time.perf_counter() - start) * 1e3, (time.process_time() - processor) * 1e3]
    print(*answer, flush=True)
"""


class Server:
    """A process that answers requests, one line each."""

    def __init__(self, *command, **variables):
        self.process = subprocess.Popen([*map(str, command)], env={**datasets.environment(), **variables}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(self.process.stderr.read().strip()[-400:])
        return [float(x) for x in answer.split()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def in_turn(servers, request, seconds):
    """Of each server, asked `request N ...` in bursts of about 50 ms: median milliseconds, and of processor time."""
    bursts, times = [], [[] for _ in servers]
    for s in servers:
        s.ask(*request(2))
        bursts.append(max(1, min(500, int(50 / max(min(s.ask(*request(3))[::2]), 1e-3)))))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for s, n, t in zip(servers, bursts, times):
            t += s.ask(*request(n))
            time.sleep(0.005)  # a pool of threads that waits by spinning goes to sleep
    return [[statistics.median(t[::2]) for t in times], [statistics.median(t[1::2]) for t in times]]


def difference(servers, folder):
    """Largest difference of any output, as a share of that output's largest value."""
    paths = [pathlib.Path(folder) / f"{i}.npz" for i in range(len(servers))]
    for s, p in zip(servers, paths):
        s.ask("save", p)
    worst = 0.0
    with np.load(paths[0]) as ours, np.load(paths[1]) as theirs:
        for n in theirs.files:
            a, b = ours[n].astype(np.float64), theirs[n].astype(np.float64)
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if b.size else 0.0)
    return worst


def measure(name, threads, seconds):
    model = datasets.DATA / "models" / (MODELS[name] + ".onnx")
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "feeds.npz"
        np.savez(data, **{n: a[None] for n, a in datasets.reference_inputs(model).items()})  # one whole input each
        with Server(BUILD / "tests" / "qtool_executor_bench", threads, model, data) as ours, \
                Server(sys.executable, "-c", PEER, threads, model, data) as theirs:
            apart = difference([ours, theirs], folder)
            ms, processor_ms = in_turn([ours, theirs], lambda n: ("run", n), seconds)
            peak = [s.ask("peak")[0] for s in (ours, theirs)]
    return {"model": name, "threads": threads, "ms": ms, "processor_ms": processor_ms, "peak_mib": peak, "difference": apart}


def blas_servers(threads):
    """Every OpenBLAS at hand on every core type: the system's, and the one inside NumPy."""
    found = [("libopenblas.so.0", "cblas_sgemm", core) for core in CORES]
    for lib in (pathlib.Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas*.so*"):
        suffix = "64_" if "openblas64_" in lib.name else ""
        found += [(lib, "scipy_cblas_sgemm" + suffix, core) for core in CORES]
    return [Server(sys.executable, "-c", BLAS, lib, symbol, OPENBLAS_CORETYPE=core, OPENBLAS_NUM_THREADS=str(threads))
            for lib, symbol, core in found]


def measure_products(threads, seconds):
    servers = [Server(BUILD / "tests" / "qtool_executor_bench", threads), *blas_servers(threads)]
    rows = []
    for n in SIZES:
        times = in_turn(servers, lambda count: ("gemm", count, n), seconds)[0]
        rows.append({"size": n, "threads": threads, "gflops": [2 * n**3 / 1e6 / t for t in (times[0], min(times[1:]))]})
    for s in servers:
        s.__exit__()
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS), help="empty: products only")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--no-products", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    counts, figures = [int(t) for t in args.threads.split(",")], {"models": [], "products": []}
    if args.models:
        print("| model | threads | qtool ms | ONNX Runtime ms | ratio | of processor time | peak MiB qtool / ONNX Runtime "
              "| outputs differ by |\n|---|---|---|---|---|---|---|---|", flush=True)
    for name in filter(None, args.models.split(",")):
        for threads in counts:
            r = measure(name, threads, args.seconds)
            figures["models"].append(r)
            (ours, theirs), (our_work, their_work) = r["ms"], r["processor_ms"]
            print(f"| {name} | {threads} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} | {our_work / their_work:.2f} "
                  f"| {r['peak_mib'][0]:.0f} / {r['peak_mib'][1]:.0f} | {r['difference']:.1e} |", flush=True)
    if not args.no_products:
        print("\n| product of size | threads | qtool GFLOP/s | best OpenBLAS | share |\n|---|---|---|---|---|", flush=True)
        for threads in counts:
            for r in measure_products(threads, args.seconds):
                figures["products"].append(r)
                ours, best = r["gflops"]
                print(f"| {r['size']} | {threads} | {ours:.0f} | {best:.0f} | {ours / best:.0%} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

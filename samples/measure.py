# SPDX-License-Identifier: Apache-2.0
"""Quantizes the samples with qtool, runs float and quantized files in the real ONNX Runtime, prints one table.

Speed is measured in pairs (float, quantized, float, ...), medians told; one sample per run unless said.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"

# model, recipe, calibration data, evaluation data
MAIN = [("digits_cnn", "int8_static", "digits_calib", "digits_eval")]
ALL = MAIN + [
    ("digits_cnn", "int4_weights", "digits_calib", "digits_eval"),
    ("digits_transformer", "int8_static", "digits_calib", "digits_eval"),
    ("digits_transformer", "int8_dynamic", "digits_calib", "digits_eval"),
    ("digits_transformer", "int8_weights", "digits_calib", "digits_eval"),
    ("digits_transformer", "int4_weights", "digits_calib", "digits_eval"),
    ("tiny_lstm", "int8_dynamic", "arith_calib", "arith_eval"),
    ("tiny_lstm", "int4_weights", "arith_calib", "arith_eval"),
]


def session(path, threads, optimized_to=None, optimized=True):
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if optimized_to:
        options.optimized_model_filepath = str(optimized_to)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def latencies(sessions, feeds, seconds=2.0):
    """Median milliseconds of each session, run in turn in bursts of some 30 ms. The threads of the one before wait by
    spinning: they are let go to sleep, and the first third of a burst, which wakes those of the next, does not count."""
    times = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for s, t in zip(sessions, times):
            time.sleep(0.005)
            burst, begin = [], time.perf_counter()
            while time.perf_counter() < begin + 0.03 or len(burst) < 3:
                start = time.perf_counter()
                s.run(None, feeds)
                burst.append(time.perf_counter() - start)
            t += burst[len(burst) // 3 :]
    return [float(np.median(t)) * 1e3 for t in times]


def sqnr_db(reference, candidate):
    x, y = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    noise = ((x - y) ** 2).sum()
    return float("inf") if noise == 0 else float(10 * np.log10((x**2).sum() / noise))


def outputs(s, feeds, batch):
    count = len(next(iter(feeds.values())))
    parts = [s.run(None, {n: a[i : i + batch] for n, a in feeds.items()}) for i in range(0, count, batch)]
    return [np.concatenate(p) for p in zip(*parts)]


def measure(qtool, model, recipe, calib, evaluation, threads):
    source = SAMPLES / "models" / f"{model}.onnx"
    target = ROOT / "build" / "samples" / f"{model}.{recipe}.onnx"
    report = target.with_suffix(".json")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [qtool, "quantize", source, "--recipe", recipe, "-o", target, "--calib", SAMPLES / "data" / f"{calib}.npz",
               "--eval", SAMPLES / "data" / f"{evaluation}.npz", "--threads", str(threads), "--quiet", "--json", report]
    start = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start

    data = np.load(SAMPLES / "data" / f"{evaluation}.npz")
    labels = data["labels"]
    feeds = {n: data[n] for n in data.files if n != "labels"}
    pair = [session(p, threads) for p in (source, target)]
    scores = [outputs(s, feeds, 32)[0] for s in pair]
    guesses = [s.argmax(-1) for s in scores]
    ms = latencies(pair, {n: a[:1] for n, a in feeds.items()})
    ms16 = latencies(pair, {n: a[:16] for n, a in feeds.items()})
    return {
        "model": model, "recipe": recipe, "seconds": seconds,
        "bytes": [source.stat().st_size, target.stat().st_size],
        "accuracy": [float((g == labels).mean()) for g in guesses],
        "agreement": float((guesses[0] == guesses[1]).mean()),
        "sqnr_db": sqnr_db(*scores), "ms": ms, "ms16": ms16,
    }


def table(rows):
    lines = ["| model | recipe | bytes float -> quantized | accuracy | same top-1 | SQNR | ms, batch 1 | ms, batch 16 | quantized in |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['recipe']} | {r['bytes'][0]:,} -> {r['bytes'][1]:,} ({r['bytes'][0] / r['bytes'][1]:.1f}x) "
            f"| {r['accuracy'][0]:.2%} -> {r['accuracy'][1]:.2%} | {r['agreement']:.2%} | {r['sqnr_db']:.1f} dB "
            f"| {r['ms'][0]:.3f} -> {r['ms'][1]:.3f} ({r['ms'][0] / r['ms'][1]:.2f}x) "
            f"| {r['ms16'][0]:.3f} -> {r['ms16'][1]:.3f} ({r['ms16'][0] / r['ms16'][1]:.2f}x) | {r['seconds']:.2f} s |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true", help="every sample with every recipe that fits it")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    qtool = os.environ.get("QTOOL", str(ROOT / "build" / "release" / "qtool"))
    rows = []
    for job in ALL if args.all else MAIN:
        print(f"== {job[0]} with {job[1]}", file=sys.stderr)
        rows.append(measure(qtool, *job, args.threads))
    print(table(rows))
    print(f"\nONNX Runtime {onnxruntime.__version__}, {args.threads} threads; accuracy and SQNR on held-out data; "
          f"files in build/samples")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

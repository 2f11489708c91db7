# SPDX-License-Identifier: Apache-2.0
"""What `qtool plan` announces beside what `qtool quantize` then takes: bytes of the file, peak memory, time. One thread,
whose processor time does not depend on what else the machine does.

    tests/bench/plan.py [--qtool build/release/qtool] [--recipes int8_static,...] [--samples 32] [MODEL ...]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import datasets

MODELS = ["resnet20", "mnist8", "self_attention", "squeezenet", "yunet", "ultraface", "nanodet", "yolox", "ppocr_cls",
          "ppocr_det", "sinet", "super_resolution", "espcn", "mnist_burn", "dnsmos", "byte_llama", "docs_llama", "magika",
          "nnsplit", "tashkeel"]
RECIPES = ["int8_static", "int8_dynamic", "int8_weights", "int4_weights"]
LANGUAGE_MODELS = ["byte_llama", "docs_llama"]  # w4_gptq as well
WITH_DATA = ["int8_static", "w4_gptq"]
NEAR = {"memory": 0.15, "time": 0.30}


# A small parent of its own: a child's peak would otherwise start at the size of this process.
PARENT = """import resource, subprocess, sys
r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
u = resource.getrusage(resource.RUSAGE_CHILDREN)
print(" ".join(r.stderr.strip().splitlines()[:1]))
print(r.returncode, u.ru_maxrss * 1024, u.ru_utime + u.ru_stime)"""


def run(command, env):
    """Peak resident bytes and processor seconds; none, and why, when it failed."""
    done = subprocess.run([sys.executable, "-S", "-c", PARENT, *command], stdout=subprocess.PIPE, text=True, env=env, check=True)
    *why, figures = done.stdout.splitlines()
    code, memory, seconds = figures.split()
    return ((int(memory), float(seconds)), None) if code == "0" else (None, why)


def measure(qtool, model, recipe, data, folder, env, rounds):
    arguments = [str(model), "--recipe", recipe, "--threads", "1", "-o", str(folder / "out.onnx")]
    if data:
        arguments += ["--calib", str(data)]
    planned = folder / "plan.json"
    usage, why = run([qtool, "plan", *arguments, "--json", str(planned)], env)
    if not usage:
        return None, why
    plan = json.loads(planned.read_text())
    plan["own_seconds"] = usage[1]
    report = folder / "report.json"
    taken = [run([qtool, "quantize", *arguments, "--json", str(report)], env) for _ in range(rounds)]
    if not taken[0][0]:
        return None, taken[0][1]
    plan["taken"] = {"bytes": json.loads(report.read_text())["output_bytes"], "memory": max(t[0][0] for t in taken),
                     "time": min(t[0][1] for t in taken)}
    return plan, None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qtool", default=str(datasets.ROOT / "build/release/qtool"))
    parser.add_argument("--recipes", help="default: all, w4_gptq for language models alone")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", help="every plan with what was taken, for fitting rates")
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
    rows, plans = [], []
    for name in options.models or MODELS:
        model, calib, *_ = datasets.job(name)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            data = folder / "calib.npz"
            datasets.save_npz(data, calib[: options.samples])
            wanted = options.recipes.split(",") if options.recipes else RECIPES + ["w4_gptq"] * (name in LANGUAGE_MODELS)
            for recipe in wanted:
                plan, why = measure(options.qtool, model, recipe, data if recipe in WITH_DATA else None, folder, env,
                                    options.rounds)
                if not plan:
                    print(f"{name:16} {recipe:13} did not run: {why}", flush=True)
                    continue
                taken = plan["taken"]
                held = plan["least_output_bytes"] <= taken["bytes"] <= plan["most_output_bytes"]
                exact = plan["output_bytes"] == taken["bytes"]
                memory = plan["peak_bytes"] / taken["memory"] - 1
                time = plan["seconds"] / taken["time"] - 1
                rows.append((exact, held, memory, time))
                plans.append({"model": name, "recipe": recipe, **plan})
                print(f"{name:16} {recipe:13} bytes {'exact' if exact else 'held' if held else 'WRONG'}"
                      f"  memory {taken['memory'] / 2**20:7.0f} MiB {memory:+6.0%}  time {taken['time']:7.2f} s "
                      f"{time:+6.0%}  (planned in {plan['own_seconds']:.2f} s)", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(plans))
    if rows:
        near = {"memory": sum(abs(r[2]) <= NEAR["memory"] for r in rows),
                "time": sum(abs(r[3]) <= NEAR["time"] for r in rows)}
        print(f"\n{len(rows)} plans: bytes exact in {sum(r[0] for r in rows)}, inside the interval in "
              f"{sum(r[1] for r in rows)}; memory within 15 % in {near['memory']}; time within 30 % in {near['time']}")
    return 0 if rows and all(r[1] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Damaged copies of real models through `inspect`, `quantize` and `run`: documented exit codes only, one sentence, no hang,
and never half an output.

Fixed seed, so that a finding comes back: slow.py MODEL NUMBER [FILE] makes and tries one mutant alone, and keeps it in
FILE. QTOOL_MUTANTS says how many there are (default 2000).
"""
import concurrent.futures
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import mutate

ROOT = pathlib.Path(__file__).resolve().parents[2]
QTOOL = os.environ.get("QTOOL", str(ROOT / "build" / "release" / "qtool"))
DATA = pathlib.Path(os.environ.get("QTOOL_DATA", ROOT.parent / "shared" / "data"))
MUTANTS = int(os.environ.get("QTOOL_MUTANTS", "2000"))

# Small, and between them: convolutions, attention, LSTM and GRU, If with bodies, int64 and bool constants, shapes that are
# computed, weights in Constant nodes, quantized already, data of a few hundred numbers.
SHIPPED = ["tiny_lstm", "digits_transformer", "digits_cnn"]
SHARED = ["vision/mnist8_cntk_op8", "vision/mnist_torch27_op18", "vision/self_attention_mnist_op13",
          "audio/gtcrn_stream_op11", "audio/silero_vad_v2_mini_op11", "odd/espcn_brevitas_quant", "lm/tiny_random_gpt2_past_msops"]
RECIPES = ["int8_static", "int8_dynamic", "int8_weights", "int4_weights"]
# docs/exit-codes without those that are our fault (internal, verification), and without those that a damaged model cannot
# cause (usage, budget).
ALLOWED = {0, 3, 4, 5, 7}
# The sanity floor: scrambled weights can make a model whose outputs do not survive in 8 bits.
SANITY, SANITY_WORDS = 8, ("is the same for every sample", "values that are not finite")
STOPPED = 75
MEMORY = 6 << 30  # address space, bytes
PATIENCE, GRACE = 10, 3  # seconds of CPU: until a stop is asked for, and until it must have come


def models():
    found = {name: ROOT / "samples" / "models" / f"{name}.onnx" for name in SHIPPED}
    for name in SHARED:
        path = DATA / "models" / f"{name}.onnx"
        if path.exists():
            found[path.stem] = path
        else:
            print(f"SKIPPED: {name}: not on this machine")
    return found


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def cpu_seconds(pid):
    """Used so far; unlike the time on the wall, it does not depend on what else the machine does."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def attempt(words):
    """What is wrong with this call; empty: nothing. A damaged model may ask for honest work without end, a loop of 2^60
    turns say: then a polite stop must work."""
    child = subprocess.Popen([QTOOL, *map(str, words), "--quiet", "--threads", "1"], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, preexec_fn=limit_memory)
    stopped_at = None
    while True:
        try:
            _, error = child.communicate(timeout=1)
            break
        except subprocess.TimeoutExpired:
            used = cpu_seconds(child.pid)
        if stopped_at is None and used > PATIENCE:
            stopped_at = used
            child.send_signal(signal.SIGTERM)
        elif stopped_at is not None and used > stopped_at + GRACE:
            child.kill()
            child.communicate()
            return "hangs, and does not stop when asked to"
    error = error.decode(errors="replace")
    last = error.strip().splitlines()[-3:]
    insane = child.returncode == SANITY and any(w in error for w in SANITY_WORDS)
    if child.returncode not in ALLOWED and not insane and not (stopped_at and child.returncode == STOPPED):
        return f"exit code {child.returncode}: {' | '.join(last)[:600]}"
    if stopped_at and words[0] == "inspect":
        return f"took more than {PATIENCE} s"
    if child.returncode and len(re.findall(r"^qtool: error: ", error, re.M)) != 1:
        return f"exit code {child.returncode} without one sentence: {' | '.join(last)[:600]}"
    return ""


def judge(data, number, folder):
    """What is wrong with qtool on this mutant, as lines."""
    model, out = folder / "mutant.onnx", folder / "out"
    model.write_bytes(data)
    findings = []
    recipe = RECIPES[number % len(RECIPES)]
    quantize = ["quantize", model, "--recipe", recipe, "-o", out / "new.onnx"]
    if recipe == "int8_static":
        quantize += ["--calib", "random", "--set", "data.samples=1"]
    for words in (["inspect", model], quantize, ["run", model, "--inputs", "random", "-o", out / "new.npz"]):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        target = out / "new.npz" if words[0] == "run" else out / "new.onnx"
        target.write_bytes(b"old")
        what = attempt(words)
        left = sorted(p.name for p in out.iterdir())
        if left != [target.name]:
            what += f" left behind: {left}"
        if what:
            findings.append(f"{' '.join(map(str, words[:1]))} ({recipe}): {what}")
    return findings


def one(name, path, number, keep=None):
    kind, data = mutate.mutant(path.read_bytes(), f"{name} {number}")
    if keep:
        pathlib.Path(keep).write_bytes(data)
    with tempfile.TemporaryDirectory(prefix="qtool-hostile-") as folder:
        start = time.monotonic()
        findings = judge(data, number, pathlib.Path(folder))
        return name, number, kind, findings, time.monotonic() - start


def main():
    found = models()
    if len(sys.argv) > 2:
        *_, findings, seconds = one(sys.argv[1], found[sys.argv[1]], int(sys.argv[2]), *sys.argv[3:4])
        print("\n".join(findings) or "nothing", f"({seconds:.1f} s)")
        return 1 if findings else 0
    passed = failed = 0
    names = sorted(found)
    times = {}
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [pool.submit(one, names[i % len(names)], found[names[i % len(names)]], i // len(names)) for i in range(MUTANTS)]
        for job in concurrent.futures.as_completed(jobs):
            name, number, kind, findings, seconds = job.result()
            times[name] = times.get(name, 0) + seconds
            passed += not findings
            failed += bool(findings)
            for finding in findings:
                print(f"not ok {name} {number} ({kind}): {finding}")
                sys.stdout.flush()
    for name, seconds in sorted(times.items()):
        print(f"   {name}: {seconds:.0f} s")
    skipped = len(SHIPPED) + len(SHARED) - len(found)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The same bytes: the program built in another folder is the same program, and the one that clang builds writes the same
models and tells the same of them, with any number of threads, and killed at any moment and run again.

Builds two trees (build/elsewhere, build/clang). Prints `ok NAME` or `not ok NAME: why`, then the counts.
"""
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
HERE = pathlib.Path(os.environ.get("QTOOL", BUILD / "release" / "qtool"))
SAMPLES = [("digits_cnn", "digits"), ("digits_transformer", "digits"), ("tiny_lstm", "arith")]
RECIPES = ["int8_static", "int8_fast", "int8_dynamic", "int8_weights", "int4_weights", "w4_gptq"]
THREADS = ["1", "2", "3", "8"]
KILLS, MOMENTS = 20, 50  # of each program and number of threads; of one job, with and without an older output


def build(source, tree, *options):
    for command in (["cmake", "-S", source, "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DQTOOL_TESTS=OFF", *options],
                    ["cmake", "--build", tree, "--target", "qtool"]):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-500:])
    return tree / "qtool"


def copy_of_tree(folder):
    """What git tracks, and what it does not ignore, under another path."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def signature(output):
    """Digests of the model and of its manifest, the compiler left out."""
    manifest = json.loads(output.with_name(output.name + ".manifest.json").read_text())
    del manifest["machine"]["compiler"]
    return digest(output), json.dumps(manifest, sort_keys=True)


def written(qtool, model, data, recipe, threads, folder):
    output = folder / "q.onnx"
    command = [qtool, "quantize", ROOT / f"samples/models/{model}.onnx", "--recipe", recipe, "--calib",
               ROOT / f"samples/data/{data}_calib.npz", "--eval", ROOT / f"samples/data/{data}_eval.npz", "-o", output,
               "--threads", threads, "--quiet"]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    return signature(output)


def long_job(qtool, threads, output):
    """Several sweeps over random data, a sweep per layer, and a comparison."""
    return [str(c) for c in [
        qtool, "quantize", ROOT / "samples/models/digits_cnn.onnx", "--recipe", "int8_static", "--calib", "random", "--set",
        "data.samples=2500", "--set", "bias_correct.method=measured", "--set", "bias_correct.samples=500", "--eval",
        ROOT / "samples/data/digits_eval.npz", "-o", output, "--threads", threads, "--quiet"]]


def timed(command):
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


def killed(command, seconds, number):
    """The exit code of a job that gets a signal after so long."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return job.wait(seconds)
    except subprocess.TimeoutExpired:
        job.send_signal(number)
        return job.wait()


def check_programs():
    with tempfile.TemporaryDirectory(prefix="qtool-tree-") as name:
        other = build(copy_of_tree(pathlib.Path(name) / "q"), BUILD / "elsewhere")
        if digest(HERE) != digest(other):
            raise RuntimeError("two builds in different folders differ")


def both_programs():
    return {"as built": HERE, "clang": build(ROOT, BUILD / "clang", "-DCMAKE_CXX_COMPILER=clang++")}


def check_models():
    programs = both_programs()
    with tempfile.TemporaryDirectory(prefix="qtool-bytes-") as name:
        folder = pathlib.Path(name)
        for model, data in SAMPLES:
            for recipe in RECIPES:
                results = {}
                for compiler, qtool in programs.items():
                    for threads in THREADS:
                        results.setdefault(written(qtool, model, data, recipe, threads, folder), []).append((compiler, threads))
                if len(results) > 1:
                    raise RuntimeError(f"{model}, {recipe}: {list(results.values())}")


def check_interruptions():
    """Fresh, and killed once or twice and run again with another number of threads: one model, one manifest."""
    chance = random.Random(1)
    signatures, resumed, runs = {}, 0, 0
    with tempfile.TemporaryDirectory(prefix="qtool-killed-") as name:
        output = pathlib.Path(name) / "q.onnx"
        for compiler, qtool in both_programs().items():
            for threads in THREADS:
                took = timed(long_job(qtool, threads, output))
                signatures.setdefault(signature(output), []).append((compiler, threads, "fresh"))
                for i in range(KILLS):
                    runs += 1
                    output.unlink()
                    moments = []
                    for _ in range(chance.choice([1, 1, 2])):
                        moments.append(chance.uniform(0, took))
                        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                        code = killed(long_job(qtool, threads, output), moments[-1], number)
                        if code not in (0, 75, -signal.SIGKILL):
                            raise RuntimeError(f"{compiler}, {threads} threads, signal {number} after {moments}: exit {code}")
                    resumed += output.with_name("q.onnx.resume").exists()
                    subprocess.run(long_job(qtool, chance.choice(THREADS), output), check=True, capture_output=True)
                    signatures.setdefault(signature(output), []).append((compiler, threads, moments))
                    if output.with_name("q.onnx.resume").exists():
                        raise RuntimeError("a finished job left its working folder")
    if len(signatures) > 1:
        raise RuntimeError(f"{[places[:5] for places in signatures.values()]}")
    print(f"# {resumed} of {runs} had something to go on with")


def check_kills():
    """kill -9 at any moment: the output is absent, old or whole; the next run finishes with the same bytes."""
    chance = random.Random(2)
    with tempfile.TemporaryDirectory(prefix="qtool-moments-") as name:
        output = pathlib.Path(name) / "q.onnx"
        took = timed(long_job(HERE, "2", output))
        whole = signature(output)
        for i in range(MOMENTS):
            output.unlink(missing_ok=True)
            if i % 2:
                output.write_text("old")
            moment = chance.uniform(0, took * 1.1)
            killed(long_job(HERE, "2", output), moment, signal.SIGKILL)
            there = output.read_bytes() if output.exists() else None
            fine = hashlib.sha256(there).hexdigest() == whole[0] or there == b"old" if there is not None else i % 2 == 0
            if not fine:
                raise RuntimeError(f"killed after {moment:.3f} s: the output is neither absent, old nor whole")
            if i % 5 == 0:
                subprocess.run(long_job(HERE, "2", output), check=True, capture_output=True)
                if signature(output) != whole:
                    raise RuntimeError(f"killed after {moment:.3f} s: the next run wrote something else")


def main():
    failed = 0
    checks = {"two builds in different folders give one program": check_programs,
              "this compiler and clang, 1 to 8 threads: one file, one manifest": check_models,
              "killed and run again, by both compilers and any threads: one file, one manifest": check_interruptions,
              "kill -9 at any moment: absent, old or whole": check_kills}
    for name, check in checks.items():
        try:
            check()
            print(f"ok {name}")
        except (RuntimeError, subprocess.CalledProcessError) as error:
            failed += 1
            print(f"not ok {name}: {error}")
    print(f"{len(checks) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.pop("OPENBLAS_CORETYPE", None)
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The same bytes: the program built in another folder is the same program, and the one that clang builds writes the same
models and tells the same of them, with any number of threads.

Builds two trees (build/elsewhere, build/clang). Prints `ok NAME` or `not ok NAME: why`, then the counts.
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
HERE = pathlib.Path(os.environ.get("QTOOL", BUILD / "release" / "qtool"))
SAMPLES = [("digits_cnn", "digits"), ("digits_transformer", "digits"), ("tiny_lstm", "arith")]
RECIPES = ["int8_static", "int8_fast", "int8_dynamic", "int8_weights", "int4_weights"]
THREADS = ["1", "2", "3", "8"]


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


def written(qtool, model, data, recipe, threads, folder):
    """Digests of the model and of its manifest, the compiler left out."""
    output = folder / "q.onnx"
    command = [qtool, "quantize", ROOT / f"samples/models/{model}.onnx", "--recipe", recipe, "--calib",
               ROOT / f"samples/data/{data}_calib.npz", "--eval", ROOT / f"samples/data/{data}_eval.npz", "-o", output,
               "--threads", threads, "--quiet"]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    manifest = json.loads((folder / "q.onnx.manifest.json").read_text())
    del manifest["machine"]["compiler"]
    return digest(output), json.dumps(manifest, sort_keys=True)


def check_programs():
    with tempfile.TemporaryDirectory(prefix="qtool-tree-") as name:
        other = build(copy_of_tree(pathlib.Path(name) / "q"), BUILD / "elsewhere")
        if digest(HERE) != digest(other):
            raise RuntimeError("two builds in different folders differ")


def check_models():
    programs = {"as built": HERE, "clang": build(ROOT, BUILD / "clang", "-DCMAKE_CXX_COMPILER=clang++")}
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


def main():
    failed = 0
    checks = {"two builds in different folders give one program": check_programs,
              "this compiler and clang, 1 to 8 threads: one file, one manifest": check_models}
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

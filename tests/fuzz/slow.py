# SPDX-License-Identifier: Apache-2.0
"""Fuzzes every reader for QTOOL_FUZZ_SECONDS (default 60) with libFuzzer, address and undefined-behaviour sanitizers.

Builds the preset `fuzz` (clang). A finding fails, and its input stays in build/fuzz/findings/<target>/: it belongs into
tests/fuzz/corpus/<target>/ together with the fix. What a run learns is kept in build/fuzz/grown/<target>/.

    build/venv/bin/python tests/fuzz/slow.py [TARGET ...]
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "fuzz"
SECONDS = int(os.environ.get("QTOOL_FUZZ_SECONDS", "60"))

# Target -> longest input, largest single allocation in MiB. Bounds of the readers: a model or table of arrays takes a
# small multiple of its file (sparse and deflated data: 16 MiB, or 128 and 1032 times their bytes); a picture takes what
# its header says, where the compressed data can fill that.
LIMITS = {
    "gguf": (4096, 16),
    "image": (4096, 128),
    "imatrix": (4096, 16),
    "jsonl": (4096, 16),
    "lock": (8192, 16),
    "npy": (4096, 16),
    "npz": (8192, 32),
    "onnx": (8192, 64),
    "onnx_file": (8192, 64),
    "recipe": (8192, 16),
    "safetensors": (8192, 16),
    "tensor": (4096, 16),
}
WORDS = {
    "onnx": ["If", "Loop", "Scan", "Shape", "Constant", "ConstantOfShape", "Reshape", "Gather", "Concat", "Slice", "Conv",
             "QuantizeLinear", "DequantizeLinear", "location", "offset", "length", "w.bin", "ai.onnx", "com.microsoft"],
    "recipe": ["version", "target", "steps", "rules", "where", "not_name", "region", "keep", "float", "emit", "gate", "data",
               "image", "eval", "group", "weights", "!!str", "&a", "*a", "<<", "|", ">", "---", "%YAML"],
    "safetensors": ["__metadata__", "dtype", "shape", "data_offsets", "F32", "BF16", "F8_E4M3", "BOOL"],
    "gguf": ["GGUF", "general.alignment"],
    "imatrix": ["GGUF", "general.type", "imatrix", ".in_sum2", ".counts"],
    "npy": ["descr", "fortran_order", "shape", "<f4", "|b1", ">i8", "True", "False", "\\x93NUMPY"],
    "npz": ["PK\\x01\\x02", "PK\\x03\\x04", "PK\\x05\\x06", "PK\\x06\\x06", "PK\\x06\\x07", ".npy", "\\xff\\xff\\xff\\xff"],
    "image": ["IHDR", "IDAT", "PLTE", "tRNS", "gAMA", "iCCP", "IEND", "\\xff\\xc0", "\\xff\\xc2", "\\xff\\xc4", "\\xff\\xda"],
    "jsonl": ["input_ids", "attention_mask", "null", "true", "\\\\u00e9", "1e309", "-0"],
}
WORDS["onnx_file"] = WORDS["onnx"]


def build(targets):
    programs = [f"fuzz_{t}" for t in targets]
    for command in (["cmake", "--preset", "fuzz"], ["cmake", "--build", "--preset", "fuzz", "--target", *programs]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr)
            return False
    return True


def fuzz(target):
    """The findings of one target, as text."""
    longest, largest = LIMITS[target]
    findings, grown = BUILD / "findings" / target, BUILD / "grown" / target
    shutil.rmtree(findings, ignore_errors=True)
    findings.mkdir(parents=True)
    grown.mkdir(parents=True, exist_ok=True)
    options = []
    if target in WORDS:
        words = BUILD / f"{target}.dict"
        words.write_text("".join(f'"{w}"\n' for w in WORDS[target]))
        options = [f"-dict={words}"]
    command = [BUILD / "tests" / f"fuzz_{target}", grown, ROOT / "tests" / "fuzz" / "corpus" / target, f"-max_len={longest}",
               f"-malloc_limit_mb={largest}", "-rss_limit_mb=2048", "-timeout=20", f"-max_total_time={SECONDS}",
               f"-artifact_prefix={findings}/", *options, "-print_final_stats=1", "-verbosity=1"]
    done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, errors="replace")
    runs = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    print(f"   {target}: {runs[-1] if runs else '?'} inputs, {covered[-1] if covered else '?'} edges")
    return "" if done.returncode == 0 else done.stderr[-6000:]


def main():
    if not shutil.which("clang++"):
        print("SKIPPED: fuzzing: clang++ is not installed")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    listed = re.findall(r"QTOOL_FUZZ\((\w+)\)", (ROOT / "tests" / "fuzz" / "list.inc").read_text())
    targets = sys.argv[1:] or listed
    if not build(targets):
        print("0 passed, 1 failed, 0 skipped")
        return 1
    passed = failed = 0
    for target in targets:
        text = fuzz(target)
        print(f"ok {target}" if not text else f"not ok {target}\n{text}")
        sys.stdout.flush()
        passed += not text
        failed += bool(text)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

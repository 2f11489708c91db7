# SPDX-License-Identifier: Apache-2.0
"""The release program on older processors, as qemu-x86_64 (Debian: qemu-user) plays them: quantizes the shipped sample, and
runs a quantized model to the same outputs as here. With --portable it writes the same bytes. An instruction that the
processor lacks would end it by a signal.

Prints `ok NAME` or `not ok NAME: why`, then the counts. About two minutes.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
QTOOL = os.environ.get("QTOOL", str(ROOT / "build" / "release" / "qtool"))
MODEL, DATA = ROOT / "samples/models/digits_cnn.onnx", ROOT / "samples/data/digits_calib.npz"
# The last one is asked to run kernels that it does not have, as an environment made for another machine asks.
PORTABLE = [("digits_cnn", "digits"), ("digits_transformer", "digits"), ("tiny_lstm", "arith")]
PROCESSORS = [("Nehalem", {}), ("Haswell", {}), ("Nehalem", {"OPENBLAS_CORETYPE": "Haswell"})]


def call(*words, emulator=(), **variables):
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    done = subprocess.run([*emulator, QTOOL, *map(str, words), "--quiet", "--threads", "2"], capture_output=True,
                          env={**environment, **variables}, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")


def outputs(path):
    with np.load(path) as arrays:
        return {n: arrays[n].astype(np.float64) for n in arrays.files}


def attempt(cpu, variables, folder, native, expected):
    emulator = (shutil.which("qemu-x86_64"), "-cpu", cpu)
    written, results = folder / "emulated.onnx", folder / "emulated.npz"
    call("quantize", MODEL, "--recipe", "int8_static", "--calib", DATA, "-o", written, emulator=emulator, **variables)
    call("run", written, "--inputs", DATA, "-o", results)
    for path, what in ((results, "the model quantized there"), (None, "the model quantized here")):
        if path is None:
            call("run", native, "--inputs", DATA, "-o", results, emulator=emulator, **variables)
        for name, want in expected.items():
            got = outputs(results)[name]
            apart = float(np.abs(got - want).max() / np.abs(want).max())
            # There, float sums are rounded in another order, and a scale may differ in its last bit.
            if got.shape != want.shape or not apart <= (0.05 if path else 0.0):
                raise RuntimeError(f"{what}: {name} differs by {apart:.2g} of its range")


def portable_files(folder, emulator=(), **variables):
    """Models and manifests of the samples, as bytes."""
    files = []
    for model, data in PORTABLE:
        path = folder / "portable.onnx"
        call("quantize", ROOT / f"samples/models/{model}.onnx", "--recipe", "int8_static", "--calib",
             ROOT / f"samples/data/{data}_calib.npz", "--portable", "-o", path, emulator=emulator, **variables)
        files.append((path.read_bytes(), path.with_name("portable.onnx.manifest.json").read_bytes()))
    return files


def main():
    if not shutil.which("qemu-x86_64"):
        print("SKIPPED: older processors: qemu-x86_64 is not installed (Debian: qemu-user)")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix="qtool-cpu-") as name:
        folder = pathlib.Path(name)
        native = folder / "native.onnx"
        call("quantize", MODEL, "--recipe", "int8_static", "--calib", DATA, "-o", native)
        call("run", native, "--inputs", DATA, "-o", folder / "native.npz")
        expected = outputs(folder / "native.npz")
        portable = portable_files(folder)
        for cpu, variables in PROCESSORS:
            title = " ".join([cpu, *(f"{k}={v}" for k, v in variables.items())])
            try:
                attempt(cpu, variables, folder, native, expected)
                if portable_files(folder, (shutil.which("qemu-x86_64"), "-cpu", cpu), **variables) != portable:
                    raise RuntimeError("--portable writes other bytes")
                print(f"ok {title}")
            except RuntimeError as e:
                print(f"not ok {title}: {e}")
                failed += 1
    print(f"{len(PROCESSORS) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Help for checks against the real ONNX Runtime: quantize with the program, load, look at the optimized graph, compare."""
import collections
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx

ROOT = pathlib.Path(__file__).resolve().parents[2]
QTOOL = os.environ.get("QTOOL", str(ROOT / "build" / "release" / "qtool"))
sys.path.insert(0, str(ROOT / "tests" / "bench"))
sys.path.insert(0, str(ROOT / "samples"))

import measure
from measure import sqnr_db

#: What the optimized graph may hold without being an integer kernel: moves, layout, edges of the model.
INTEGER_KERNELS = {
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "QLinearAdd",
    "QLinearMul", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid",
    "QLinearSoftmax", "QLinearWhere", "GatherBlockQuantized",
}


class Failure(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failure(what)


def call(*words):
    done = subprocess.run([QTOOL, *map(str, words)], capture_output=True, text=True, errors="replace")
    expect(done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr.strip()[-600:]}")
    return done.stdout


def quantize(model, recipe, output, calib=None, settings=(), json=None):
    words = ["quantize", model, "--recipe", recipe, "-o", output, "--quiet"]
    words += ["--calib", calib] if calib else []
    words += [w for s in settings for w in ("--set", s)]
    words += ["--json", json] if json else []
    call(*words)
    return output


def reading(model, inputs, folder, name="quantized"):
    """Outputs of the program's own executor for the written file: what it believes the runtime computes."""
    call("run", model, "--inputs", inputs, "-o", folder / "reading.npz", "--reading", name, "--quiet")
    with np.load(folder / "reading.npz") as data:
        return dict(data)


def session(model, optimized=True, save=None):
    return measure.session(model, 1, save, optimized)


def histogram(model, folder):
    """Operators that ONNX Runtime really runs."""
    session(model, save=folder / "optimized.onnx")
    return collections.Counter(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node)


def run(model, feeds, optimized=True, batch=1):
    """Outputs by name over feeds cut along the first axis."""
    s = session(model, optimized)
    names = [o.name for o in s.get_outputs()]
    count = len(next(iter(feeds.values())))
    parts = [s.run(None, {k: v[i : i + batch] for k, v in feeds.items()}) for i in range(0, count, batch)]
    return {n: np.concatenate([p[k] for p in parts]) for k, n in enumerate(names)}


class Suite:
    """Counts; a failing check goes on with the next."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    @contextlib.contextmanager
    def case(self, name):
        with tempfile.TemporaryDirectory(prefix="qtool-runtime-") as folder:
            try:
                yield pathlib.Path(folder)
                self.passed += 1
            except Failure as failure:
                self.failed += 1
                print(f"FAILED: {name}: {failure}")
            except Exception as error:  # the runtime refused, a file is missing: a failure too
                self.failed += 1
                print(f"FAILED: {name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")

    def skip(self, what, why):
        self.skipped += 1
        print(f"SKIPPED: {what}: {why}")

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0

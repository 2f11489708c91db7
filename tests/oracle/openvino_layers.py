# SPDX-License-Identifier: Apache-2.0
"""What OpenVINO really runs on 8-bit values, and how the files that qtool writes for it run there.

Writes tests/golden/openvino.txt. First one line per operator: its name and the type of the layer that executed it, when
8-bit values stand on all sides of it; tests/backends compares the table of the target with these lines. Then one line
per sample model and recipe: layers with 8-bit operands of all layers with weights, and the SQNR in dB against the float model
of OpenVINO's output and of qtool's quantized reading. The two round at different places (OpenVINO folds biases and scales
into its kernels), so they need not have equal codes; a file that does not load, or is worse in OpenVINO by 1 dB, fails.
"""
import collections
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import openvino
from onnx import helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
QTOOL = os.environ.get("QTOOL", str(ROOT / "build" / "release" / "qtool"))
IMAGE = [1, 32, 16, 16]
CORE = openvino.Core()
RANDOM = np.random.default_rng(0)


def text(item):
    return item.astype(str) if hasattr(item, "astype") else str(item)


def compiled(path):
    return CORE.compile_model(CORE.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def layers(model):
    """Layer type -> element types that layers of this type ran on."""
    found = collections.defaultdict(list)
    for op in model.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        found[text(info["layerType"])].append(text(info["runtimePrecision"]))
    return found


class Case:
    """One operator between QuantizeLinear and DequantizeLinear pairs."""

    def __init__(self):
        self.nodes, self.constants, self.inputs = [], [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def pair(self, value, scale):
        parameters = [self.constant(value + "_s", np.float32(scale)), self.constant(value + "_z", np.uint8(128))]
        codes = self.node("QuantizeLinear", [value, *parameters], value + "_q")
        return self.node("DequantizeLinear", [codes, *parameters], value + "_d")

    def input(self, name, shape):
        self.inputs.append(helper.make_tensor_value_info(name, 1, shape))
        return self.pair(name, 0.02)

    def weight(self, shape, axis):
        codes = self.constant("w_q", RANDOM.integers(-127, 128, shape).astype(np.int8))
        scale = self.constant("w_s", np.full(shape[axis], 0.01, np.float32))
        zero = self.constant("w_z", np.zeros(shape[axis], np.int8))
        return self.node("DequantizeLinear", [codes, scale, zero], "w", axis=axis)

    def run(self, output, folder):
        graph = helper.make_graph(self.nodes, "g", self.inputs, [helper.make_tensor_value_info(output, 1, None)], self.constants)
        path = folder / "case.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return layers(compiled(path))


def ints(*values):
    return np.array(values, np.int64)


# Operator -> the layer that executes it, its attributes, constant operands, and whether it shares one scale.
PLAIN = {
    "AveragePool": ("Pooling", {"kernel_shape": [2, 2], "strides": [2, 2]}, [], False),
    "GlobalAveragePool": ("Reduce", {}, [], False),
    "LeakyRelu": ("Eltwise", {}, [], False),
    "Sigmoid": ("Eltwise", {}, [], False),
    "Softmax": ("Softmax", {}, [], False),
    "MaxPool": ("Pooling", {"kernel_shape": [2, 2], "strides": [2, 2]}, [], True),
    "Reshape": ("Reshape", {}, [ints(1, -1)], True),
    "Transpose": ("Transpose", {"perm": [0, 2, 3, 1]}, [], True),
    "Flatten": ("Reshape", {}, [], True),
    "Squeeze": ("Reshape", {}, [ints(0)], True),
    "Unsqueeze": ("Reshape", {}, [ints(0)], True),
    "Slice": ("StridedSlice", {}, [ints(1), ints(8), ints(2)], True),
    "Gather": ("Gather", {"axis": 1}, [ints(1, 2, 3)], True),
    "Expand": ("Broadcast", {}, [ints(4, 32, 16, 16)], True),
    "Tile": ("Tile", {}, [ints(1, 1, 2, 1)], True),
    "DepthToSpace": ("DepthToSpace", {"blocksize": 2}, [], True),
    "SpaceToDepth": ("SpaceToDepth", {"blocksize": 2}, [], True),
    "ReduceMax": ("Reduce", {"axes": [2, 3]}, [], True),
    "ReduceMin": ("Reduce", {"axes": [2, 3]}, [], True),
    "Resize": ("Interpolate", {"mode": "nearest"}, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], True),
}


def plain(op, folder):
    layer, attributes, constants, same = PLAIN[op]
    case = Case()
    operands = [case.input("x", IMAGE)] + [case.constant(f"k{i}", c) for i, c in enumerate(constants)]
    case.node(op, operands, "y", **attributes)
    return layer, case.run(case.pair("y", 0.02 if same else 0.05), folder)


def product(op, folder):
    case = Case()
    shape, weight, axis = (IMAGE, [32, 32, 3, 3], 0) if op == "Conv" else (IMAGE, [32, 32, 2, 2], 1) if op == "ConvTranspose" else ([4, 64], [64, 64], 1)
    case.node(op, [case.input("x", shape), case.weight(weight, axis)], "y")
    layer = {"Conv": "Convolution", "ConvTranspose": "Deconvolution"}.get(op, "FullyConnected")
    return layer, case.run(case.pair("y", 0.05), folder)


def two_activations(folder):
    case = Case()
    case.node("MatMul", [case.input("x", [2, 4, 64]), case.input("z", [2, 64, 8])], "y")
    return "MatMul", case.run(case.pair("y", 0.05), folder)


def concat(folder):
    case = Case()
    case.node("Concat", [case.input("x", IMAGE), case.input("z", IMAGE)], "y", axis=1)
    return "Concatenation", case.run(case.pair("y", 0.02), folder)


def split(folder):
    case = Case()
    case.nodes.append(helper.make_node("Split", [case.input("x", IMAGE)], ["y", "rest"], axis=1))
    case.pair("rest", 0.02)
    return "Split", case.run(case.pair("y", 0.02), folder)


def fused_into_conv(op, folder):
    """A residual: 8-bit when no layer of its own is left."""
    case = Case()
    x = case.input("x", IMAGE)
    case.node("Conv", [x, case.weight([32, 32, 1, 1], 0)], "c")
    case.node(op, [case.pair("c", 0.05), x], "y")
    found = case.run(case.pair("y", 0.05), folder)
    return "Convolution", {"Convolution": found["Convolution"]}


def operators(folder):
    for op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        yield op, product(op, folder)
    yield "MatMul(activations)", two_activations(folder)
    yield "Add", fused_into_conv("Add", folder)
    yield "Concat", concat(folder)
    yield "Split", split(folder)
    for op in PLAIN:
        yield op, plain(op, folder)


def call(*arguments):
    subprocess.run([QTOOL, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def sqnr(wanted, got):
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    return 10 * np.log10((wanted**2).sum() / max(((wanted - got) ** 2).sum(), 1e-300))


def reading(model, feeds, folder, kind):
    np.savez(folder / "feeds.npz", **feeds)
    call("run", model, "--inputs", folder / "feeds.npz", "-o", folder / "out.npz", "--reading", kind, "--quiet")
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


def samples(folder):
    for name, data in (("digits_cnn", "digits"), ("digits_transformer", "digits"), ("tiny_lstm", "arith")):
        source, calib = ROOT / f"samples/models/{name}.onnx", ROOT / f"samples/data/{data}_calib.npz"
        with np.load(ROOT / f"samples/data/{data}_eval.npz") as arrays:
            feeds = {k: v[:32] for k, v in arrays.items() if k != "labels"}
        for recipe in ("int8_static", "int8_weights", "int4_weights"):
            written = folder / "written.onnx"
            call("quantize", source, "--recipe", recipe, "--target", "openvino", "--calib", calib, "-o", written, "--quiet")
            model = compiled(written)
            outputs = model(feeds)
            floats, codes = (reading(m, feeds, folder, k) for m, k in ((source, "reference"), (written, "quantized")))
            figures = []
            for port in model.outputs:
                output = port.get_any_name()
                figures.append((sqnr(floats[output], outputs[port]), sqnr(floats[output], codes[output])))
                if figures[-1][0] < figures[-1][1] - 1:
                    sys.exit(f"{name}, {recipe}: {output} has {figures[-1][0]:.1f} dB in OpenVINO, {figures[-1][1]:.1f} dB in qtool")
            worst = min(figures)
            products = [p for layer, types in layers(model).items() if layer in ("Convolution", "FullyConnected", "MatMul") for p in types]
            small = [p for p in products if p not in ("f32", "dynamic")]
            yield f"{name} {recipe} {len(small)} of {len(products)} {worst[0]:.1f} {worst[1]:.1f}"


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lines = []
        for op, (layer, found) in operators(folder):
            lines.append(f"{op} {' '.join(sorted(set(found.get(layer, ['f32']))))}")
            print(lines[-1], {k: v for k, v in found.items() if k not in ("Const", "Input", "Output")})
        for line in samples(folder):
            lines.append("sample " + line)
            print(line)
    header = f"# OpenVINO {openvino.__version__.split('-')[0]}, written by tests/oracle/openvino_layers.py"
    (ROOT / "tests/golden/openvino.txt").write_text("\n".join([header, *lines]) + "\n")


main()

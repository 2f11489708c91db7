# SPDX-License-Identifier: Apache-2.0
"""Writes a model of about a gibibyte: a stack of float32 MatMul layers, for tools that must not read weights.

    tests/bench/large_model.py FILE.onnx [--external] [--layers 64] [--width 2048]
"""
import argparse
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper


def build(path, layers, width, external):
    random = np.random.default_rng(1)
    nodes, weights = [], []
    block = (random.standard_normal((width, width)) * (2 / width) ** 0.5).astype(np.float32)  # values stay as large
    offset = 0
    target = pathlib.Path(str(path) + ".data").open("wb") if external else None
    for i in range(layers):
        w = np.roll(block, i)  # drawing every layer would take longer than all that is measured
        if external:
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", path.name + ".data"), ("offset", offset), ("length", w.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            target.write(w.tobytes())
            offset += w.nbytes
        else:
            tensor = onnx.numpy_helper.from_array(w, f"w{i}")
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"], name=f"layer{i}"))
        nodes.append(helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"], name=f"relu{i}"))
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph(nodes, "large", [value("x0")], [value(f"x{layers}")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--external", action="store_true")
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--width", type=int, default=2048)
    options = parser.parse_args()
    build(options.path, options.layers, options.width, options.external)


if __name__ == "__main__":
    main()

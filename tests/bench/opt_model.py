# SPDX-License-Identifier: Apache-2.0
"""Writes a decoder of the shape of OPT-125M (random weights, head tied to the table) and random tokens for calibration.

    tests/bench/opt_model.py MODEL.onnx TOKENS.npz [--layers 12] [--samples 128] [--length 256]
"""
import argparse
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, INNER, WORDS, PLACES = 768, 12, 3072, 50272, 2048


class Builder:
    def __init__(self):
        self.random, self.nodes, self.weights = np.random.default_rng(1), [], []

    def constant(self, name, value):
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def drawn(self, name, *shape):
        return self.constant(name, (self.random.standard_normal(shape, np.float32) * np.float32(0.02)))

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def norm(self, x, name):
        scale = self.constant(name + ".weight", np.ones(HIDDEN, np.float32))
        return self.node("LayerNormalization", [x, scale, self.constant(name + ".bias", np.zeros(HIDDEN, np.float32))], name, axis=-1)

    def linear(self, x, name, width, inner):
        y = self.node("MatMul", [x, self.drawn(name + ".weight", width, inner)], name + ".product")
        return self.node("Add", [y, self.drawn(name + ".bias", inner)], name)

    def heads(self, x, name, order):
        return self.node("Transpose", [self.node("Reshape", [x, "split"], name + ".split")], name + ".heads", perm=order)

    def layer(self, x, name):
        y = self.norm(x, name + ".first_norm")
        q, k, v = (self.linear(y, f"{name}.{part}", HIDDEN, HIDDEN) for part in "qkv")
        scores = self.node("MatMul", [self.heads(q, name + ".q", [0, 2, 1, 3]), self.heads(k, name + ".k", [0, 2, 3, 1])], name + ".scores")
        scores = self.node("Add", [self.node("Mul", [scores, "scale"], name + ".scaled"), "mask"], name + ".masked")
        mixed = self.node("MatMul", [self.node("Softmax", [scores], name + ".shares", axis=-1), self.heads(v, name + ".v", [0, 2, 1, 3])], name + ".mixed")
        mixed = self.node("Reshape", [self.node("Transpose", [mixed], name + ".turned", perm=[0, 2, 1, 3]), "join"], name + ".joined")
        x = self.node("Add", [x, self.linear(mixed, name + ".out", HIDDEN, HIDDEN)], name + ".attended")
        y = self.node("Relu", [self.linear(self.norm(x, name + ".second_norm"), name + ".up", HIDDEN, INNER)], name + ".relu")
        return self.node("Add", [x, self.linear(y, name + ".down", INNER, HIDDEN)], name + ".end")


def build(path, layers, length):
    b = Builder()
    table = b.drawn("table", WORDS, HIDDEN)
    b.constant("split", np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64))
    b.constant("join", np.array([0, 0, HIDDEN], np.int64))
    b.constant("flat", np.array([-1, HIDDEN], np.int64))
    b.constant("words", np.array([-1, length, WORDS], np.int64))
    b.constant("scale", np.array(HEADS / HIDDEN, np.float32) ** np.float32(0.5))
    b.constant("mask", np.triu(np.full((length, length), -1e9, np.float32), 1))
    b.drawn("places", PLACES, HIDDEN)
    b.constant("numbers", np.arange(length, dtype=np.int64))
    x = b.node("Add", [b.node("Gather", [table, "input_ids"], "embedded"), b.node("Gather", ["places", "numbers"], "placed")], "begin")
    for i in range(layers):
        x = b.layer(x, f"layer{i}")
    x = b.node("Reshape", [b.norm(x, "last_norm"), "flat"], "rows")
    b.node("Reshape", [b.node("Gemm", [x, table], "head", transB=1), "words"], "logits")
    graph = helper.make_graph(b.nodes, "opt", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", length])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", length, WORDS])], b.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("tokens", type=pathlib.Path)
    for name, value in {"layers": 12, "samples": 128, "length": 256}.items():
        parser.add_argument("--" + name, type=int, default=value)
    o = parser.parse_args()
    build(o.model, o.layers, o.length)
    np.savez(o.tokens, input_ids=np.random.default_rng(2).integers(0, WORDS, (o.samples, o.length), np.int64))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Small models, one per rule of the target's table (backends/ort_cpu): that ONNX Runtime runs the claimed kernel and
nothing between quantizers, and that its numbers are those of our reading."""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools import ROOT, expect, histogram, quantize, reading, run, sqnr_db

rng = np.random.default_rng(20)


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def weight(name, *shape, scale=0.3):
    return tensor(name, (rng.standard_normal(shape) * scale).astype(np.float32))


def model(nodes, inputs, outputs, constants, opset=17):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ins.split(), outs.split(), name=outs.split()[0] + "_node", **attrs) for op, ins, outs, attrs in nodes],
        "g", [info(n, TensorProto.FLOAT, s) for n, s in inputs], [info(n, TensorProto.FLOAT, s) for n, s in outputs], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return made


def between(*nodes, channels=4, opset=17, extra=()):
    """Conv, `nodes` from value c to value d, Conv."""
    all_nodes = [("Conv", "x w1 b1", "c", {}), *nodes, ("Conv", "d w2", "y", {})]
    return model(all_nodes, [("x", ["N", 3, 8, 8])], [("y", None)],
                 [weight("w1", 4, 3, 3, 3), weight("b1", 4), weight("w2", 5, channels, 1, 1), *extra], opset)


def product(*nodes, shape=("N", 16), columns=8, extra=(), opset=17):
    """x of `shape`, weight w [16, columns] and its transpose wt, bias b."""
    w = (rng.standard_normal((16, columns)) * 0.3).astype(np.float32)
    return model(nodes, [("x", list(shape))], [("y", None)],
                 [tensor("w", w), tensor("wt", np.ascontiguousarray(w.T)), weight("b", columns), *extra], opset)


def static_cases():
    """name, model, kernels that must run (at least so often), operators that must not."""
    pair = {"QuantizeLinear": 1, "DequantizeLinear": 1}
    none = ("MatMul", "Gemm", "Conv", "FusedConv")
    relu, same = ("Relu", "c", "d", {}), {"QLinearConv": 2, **pair}
    yield "Conv, Conv", between(("Identity", "c", "d", {})), same
    yield "Conv, Relu", between(relu), same
    yield "Conv, Clip 0..6", between(("Clip", "c low high", "d", {}), extra=[tensor("low", np.float32(0)), tensor("high", np.float32(6))]), same
    yield "Conv, Clip -1..1", between(("Clip", "c low high", "d", {}), extra=[tensor("low", np.float32(-1)), tensor("high", np.float32(1))]), same
    yield "Conv, Clip -0.3..1.7", between(("Clip", "c low high", "d", {}), extra=[tensor("low", np.float32(-0.3)), tensor("high", np.float32(1.7))]), same
    yield "MaxPool, Relu", between(("MaxPool", "c", "m", {"kernel_shape": [2, 2]}), ("Relu", "m", "d", {})), {**same, "NhwcMaxPool": 1}
    yield "residual Add, Relu", between(relu[:2] + ("r", {}), ("Conv", "r w3", "e", {}), ("Add", "e r", "a", {}), ("Relu", "a", "d", {}),
                                        extra=[weight("w3", 4, 4, 1, 1)]), {"QLinearConv": 3, "QLinearAdd": 1, **pair}
    yield "Mul by a constant", between(("Mul", "c k", "d", {}), extra=[weight("k", 1, 4, 6, 6)]), {**same, "QLinearMul": 1}
    yield "SiLU", between(("Sigmoid", "c", "s", {}), ("Mul", "c s", "d", {})), {**same, "QLinearSigmoid": 1, "QLinearMul": 1}
    yield "LeakyRelu", between(("LeakyRelu", "c", "d", {"alpha": 0.1})), {**same, "QLinearLeakyRelu": 1}
    yield "AveragePool", between(("AveragePool", "c", "d", {"kernel_shape": [2, 2]})), {**same, "QLinearAveragePool": 1}
    yield "GlobalAveragePool", between(("GlobalAveragePool", "c", "d", {})), {**same, "QLinearGlobalAveragePool": 1}
    yield "Softmax", between(("Softmax", "c", "d", {"axis": 1})), {**same, "QLinearSoftmax": 1}
    yield "Concat, Relu on both", between(("Relu", "c", "r", {}), ("Conv", "x w3", "e", {}), ("Relu", "e", "s", {}), ("Concat", "r s", "d", {"axis": 1}),
                                          channels=8, extra=[weight("w3", 4, 3, 3, 3)]), {"QLinearConv": 3, "QLinearConcat": 1, **pair}
    yield "Concat, Relu on one", between(("Relu", "c", "r", {}), ("Conv", "x w3", "e", {}), ("Concat", "r e", "d", {"axis": 1}),
                                         channels=8, extra=[weight("w3", 4, 3, 3, 3)]), {"QLinearConv": 3, "QLinearConcat": 1, **pair}
    yield "Split, Concat", between(("Split", "c", "p q", {"axis": 1}), ("Concat", "q p", "d", {"axis": 1})), {**same, "Split": 1, "QLinearConcat": 1}
    yield "Transpose, Reshape", between(("Transpose", "c", "t", {"perm": [0, 1, 3, 2]}), ("Reshape", "t shape", "d", {}),
                                        extra=[tensor("shape", np.array([0, 4, 6, 6]))]), same
    yield "Resize nearest", between(("Resize", "c none scales", "d", {}), extra=[tensor("none", np.zeros(0, np.float32)), tensor("scales", np.array([1, 1, 2, 2], np.float32))]), {**same, "Resize": 1}
    yield "DepthToSpace", between(("DepthToSpace", "c", "d", {"blocksize": 2}), channels=1), {**same, "DepthToSpace": 1}
    yield "Pad", between(("Relu", "c", "r", {}), ("Pad", "r pads", "d", {}), extra=[tensor("pads", np.array([0, 0, 1, 2, 0, 0, 2, 1]))]), {**same, "Pad": 1}
    yield "Pad, reflected", between(("Pad", "c pads", "d", {"mode": "reflect"}), extra=[tensor("pads", np.array([0, 0, 1, 2, 0, 0, 2, 1]))]), {**same, "Pad": 1}
    yield "depthwise", between(("Conv", "c w3", "e", {"group": 4}), ("Relu", "e", "d", {}), extra=[weight("w3", 4, 1, 3, 3)]), {"QLinearConv": 3, **pair}
    yield "a dead channel", between(("Conv", "c w3 b3", "d", {}), extra=[tensor("w3", np.zeros((4, 4, 1, 1), np.float32)), tensor("b3", np.array([9, -7, 0.5, 0], np.float32))]), {"QLinearConv": 3, **pair}
    tiny = np.array([1, 1e-40, 1e-20, 1], np.float32)[:, None, None, None] * np.ones((4, 4, 1, 1), np.float32)
    yield "vanishing weights", between(("Conv", "c w3 b3", "d", {}), extra=[tensor("w3", tiny), tensor("b3", np.array([0, 0, 3, 1], np.float32))]), {"QLinearConv": 3, **pair}
    yield "one weight for two", between(("Conv", "c w3", "e", {}), ("Conv", "e w3", "d", {}), extra=[weight("w3", 4, 4, 1, 1)]), {"QLinearConv": 4, **pair}
    yield "float operators between", between(("Tanh", "c", "t", {}), ("HardSwish", "t", "d", {})), {"QLinearConv": 2, "QuantizeLinear": 2, "DequantizeLinear": 2, "Tanh": 1}
    yield "old operator set", between(("Relu", "c", "r", {}), ("Dropout", "r", "d", {"ratio": 0.5}), opset=10), same

    yield "MatMul", product(("MatMul", "x w", "y", {})), {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1}
    for shape in (("N", 16), (4, 16), ("N", 3, 16), (2, 3, 16)):
        kernels = {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1}
        yield f"MatMul, Add {shape}", product(("MatMul", "x w", "m", {}), ("Add", "m b", "y", {}), shape=shape), kernels
        yield f"MatMul, residual {shape}", product(("MatMul", "x v", "m", {}), ("Add", "m x", "y", {}), shape=shape, extra=[weight("v", 16, 16)]), {**kernels, "Add": 1}
    yield "Gemm", product(("Gemm", "x w b", "y", {})), {"QuantizeLinear": 1, "QGemm": 1}
    yield "Gemm transposed", product(("Gemm", "x wt b", "y", {"transB": 1})), {"QuantizeLinear": 1, "QGemm": 1}
    yield "Gemm, Relu, Gemm", product(("Gemm", "x w b", "h", {}), ("Relu", "h", "r", {}), ("Gemm", "r v", "y", {}), extra=[weight("v", 8, 4)]), {"QuantizeLinear": 1, "QGemm": 2}
    yield "MatMul read by codes and floats", product(("MatMul", "x w", "m", {}), ("Tanh", "m", "t", {}), ("MatMul", "m v", "n", {}), ("Add", "n t", "y", {}),
                                                     extra=[weight("v", 8, 8)]), {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1, "DequantizeLinear": 1}
    yield "attention", model([("MatMul", "x k", "s", {}), ("Softmax", "s", "p", {}), ("MatMul", "p x", "y", {})], [("x", ["N", 6, 6]), ("k", ["N", 6, 6])], [("y", None)], []), {"MatMulIntegerToFloat": 2, "Softmax": 1}


def feeds_for(made, count=24):
    feeds = {}
    for value in made.graph.input:
        shape = [d.dim_value or count for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def check_static(suite):
    for activations, form in (("uint8", "qdq"), ("int8", "qdq"), ("uint8", "qoperator")):
        for name, made, kernels in static_cases():
            with suite.case(f"{name}, {activations}, {form}") as folder:
                check_one(folder, made, kernels, ["assign_formats.activations=" + activations, "emit.form=" + form])


def check_traps(suite):
    """What the runtime would undo or miss, and qtool prevents."""
    with suite.case("trap 2: a layer kept float between pairs keeps its float weights") as folder:
        made = between(("Conv", "c w3 b3", "e", {}), ("Relu", "e", "d", {}), extra=[weight("w3", 4, 4, 1, 1), weight("b3", 4)])
        onnx.save(made, folder / "float.onnx")
        feeds = feeds_for(made)
        np.savez(folder / "data.npz", **feeds)
        recipe = (ROOT / "recipes" / "int8_static.yaml").read_text()
        (folder / "r.yaml").write_text(recipe + "\nrules:\n  - where: {name: e_node}\n    keep: float\n")
        found = histogram(quantize(folder / "float.onnx", folder / "r.yaml", folder / "q.onnx", folder / "data.npz"), folder)
        expect(found["QLinearConv"] == 2 and found["Conv"] + found["FusedConv"] == 1, dict(found))
    for shape in (("N", 16), (4, 16), ("N", 3, 16), (2, 3, 16)):
        for name, nodes in (("a bias", (("MatMul", "x v", "m", {}), ("Add", "m r", "y", {}))),
                            ("a value", (("MatMul", "x v", "m", {}), ("Add", "m x", "y", {})))):
            with suite.case(f"trap 3: MatMul and Add of {name} as standard operators, {shape}") as folder:
                made = product(*nodes, shape=shape, extra=[weight("v", 16, 16), weight("r", 16)])
                check_one(folder, made, {"MatMulIntegerToFloat": 1}, ["emit.only_standard=true"], islands=True)
                found = histogram(folder / "q.onnx", folder)
                expect(not {"Gemm", "MatMul"} & set(found), dict(found))
    with suite.case("a table in blocks") as folder:
        table = (rng.standard_normal((50, 64)) * 0.3).astype(np.float32)
        graph = helper.make_graph([helper.make_node("Gather", ["t", "i"], ["y"])], "g", [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])], [tensor("t", table)])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "float.onnx")
        indices = np.arange(50)
        for bits, symmetric, decibels in (("int4", "true", 17), ("uint4", "false", 18), ("int8", "true", 40)):
            written = quantize(folder / "float.onnx", "int4_weights", folder / "q.onnx", settings=[
                "assign_formats.embeddings=true", f"assign_formats.weights={bits}", f"assign_formats.symmetric={symmetric}"])
            expect(histogram(written, folder)["GatherBlockQuantized"] == 1, "no GatherBlockQuantized")
            got = run(written, {"i": indices}, batch=50)["y"]
            expect(sqnr_db(table, got) > decibels, f"{bits}: {sqnr_db(table, got):.1f} dB")
            np.savez(folder / "data.npz", i=indices)
            ours = reading(written, folder / "data.npz", folder)["y"]
            expect((ours == got).all(), f"{bits}: our reading differs")


def free_batch(made):
    return any(d.dim_param for v in made.graph.input for d in v.type.tensor_type.shape.dim[:1])


def check_one(folder, made, kernels, settings, islands=False):
    onnx.save(made, folder / "float.onnx")
    feeds = feeds_for(made)
    np.savez(folder / "data.npz", **feeds)
    written = quantize(folder / "float.onnx", "int8_static", folder / "q.onnx", folder / "data.npz", settings)
    found = histogram(written, folder)
    for kernel, count in kernels.items():
        edge = not islands and kernel in ("QuantizeLinear", "DequantizeLinear")  # none more than told: no island
        wanted = found[kernel] == count if edge else found[kernel] >= count
        if kernel == "MatMulIntegerToFloat" and not wanted:
            wanted = found[kernel] + found["QGemm"] >= count
        expect(wanted, f"{count} x {kernel} expected, the runtime runs {dict(found)}")
    batch = 1 if free_batch(made) else len(next(iter(feeds.values())))
    plain = run(written, feeds, optimized=False, batch=batch)
    fast = run(written, feeds, batch=batch)
    floats = run(folder / "float.onnx", feeds, batch=batch)
    ours = reading(written, folder / "data.npz", folder)
    expect(sqnr_db(floats["y"], fast["y"]) > 18, f"{sqnr_db(floats['y'], fast['y']):.1f} dB against float")
    steps(written, ours["y"], plain["y"], "optimizations off", 0.999)
    steps(written, ours["y"], fast["y"], "optimizations on", 0.97)


def output_scale(path):
    made = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] == "y":
            return float(constants[node.input[1]])
    return None


def steps(path, ours, theirs, when, share):
    """Codes equal but for a share, never more than a step apart; float results by their noise."""
    scale = output_scale(path)
    if scale is None:
        expect(sqnr_db(theirs, ours) > 50, f"{when}: {sqnr_db(theirs, ours):.1f} dB between our reading and the runtime")
        return
    apart = np.abs(np.rint((ours.astype(np.float64) - theirs) / scale))
    expect(apart.max() <= 1, f"{when}: {apart.max():.0f} steps apart")
    expect((apart == 0).mean() >= share, f"{when}: {(apart == 0).mean():.4%} of the codes equal")

# SPDX-License-Identifier: Apache-2.0
"""Every shipped recipe on every sample, and real models beside the repository: what the runtime runs, how far it is
from float, and that our reading of the written file says the same. What once failed in other tools is a case."""
import json
import pathlib

import numpy as np
import onnx
from onnx import numpy_helper

from tools import ROOT, INTEGER_KERNELS, call, expect, histogram, quantize, reading, run, sqnr_db

SAMPLES = ROOT / "samples"
DATA = {"digits_cnn": "digits", "digits_transformer": "digits", "tiny_lstm": "arith"}
#: (sample, recipe): decibels against float at least, kernels that must run so often, operators that must not run.
EXPECTED = {
    ("digits_cnn", "int8_static"): (30, {"QLinearConv": 7, "QGemm": 2, "QLinearAdd": 1, "QLinearConcat": 1, "QLinearGlobalAveragePool": 1},
                                    {"Conv", "FusedConv", "Gemm", "DequantizeLinear"}),
    ("digits_cnn", "int8_fast"): (30, {"QLinearConv": 3}, set()),
    ("digits_cnn", "int8_dynamic"): (30, {"DynamicQuantizeMatMul": 2}, {"Gemm"}),
    ("digits_cnn", "int8_weights"): (35, {"MatMulNBits": 2}, {"Gemm"}),
    ("digits_cnn", "int4_weights"): (18, {"MatMulNBits": 2}, {"Gemm"}),
    ("digits_transformer", "int8_static"): (30, {"MatMulIntegerToFloat": 20, "QLinearMatMul": 3}, {"MatMul", "DequantizeLinear"}),
    ("digits_transformer", "int8_dynamic"): (35, {"DynamicQuantizeMatMul": 8, "MatMulIntegerToFloat": 9}, set()),
    ("digits_transformer", "int8_weights"): (35, {"MatMulNBits": 20}, set()),
    ("digits_transformer", "int4_weights"): (16, {"MatMulNBits": 20}, set()),
    ("tiny_lstm", "int8_static"): (25, {}, set()),
    ("tiny_lstm", "int8_dynamic"): (30, {"DynamicQuantizeMatMul": 1}, set()),
    ("tiny_lstm", "int8_weights"): (30, {"MatMulNBits": 1}, set()),
    ("tiny_lstm", "int4_weights"): (15, {"MatMulNBits": 1}, set()),
}
#: How much closer our reading is to the runtime than the runtime is to float, at least; and what counts as equal.
CLOSER_DB, EQUAL_DB = 15, 55


def check_samples(suite):
    for (name, recipe), (decibels, kernels, absent) in EXPECTED.items():
        with suite.case(f"{name}, {recipe}") as folder:
            source = SAMPLES / "models" / f"{name}.onnx"
            calib = SAMPLES / "data" / f"{DATA[name]}_calib.npz"
            written = quantize(source, recipe, folder / "q.onnx", calib)
            with np.load(SAMPLES / "data" / f"{DATA[name]}_eval.npz") as data:
                feeds = {k: v[:64] for k, v in data.items() if k != "labels"}
            compare(folder, source, written, feeds, decibels, kernels, absent, one="dynamic" in recipe)


def compare(folder, source, written, feeds, decibels, kernels, absent, batch=1, one=False):
    """`one`: our reading of the first sample alone, since ranges taken at run time are those of the whole batch."""
    found = histogram(written, folder)
    for kernel, count in kernels.items():
        expect(found[kernel] >= count, f"{count} x {kernel} expected, the runtime runs {dict(found)}")
    expect(not absent & set(found), f"{absent & set(found)} run in {dict(found)}")
    read = slice(0, 1) if one else slice(None)
    np.savez(folder / "data.npz", **{k: v[read] for k, v in feeds.items()})
    floats, fast = run(source, feeds, batch=batch), run(written, feeds, batch=batch)
    plain = run(written, feeds, optimized=False, batch=batch)
    ours = reading(written, folder / "data.npz", folder)
    for name in floats:
        if floats[name].dtype.kind != "f":
            continue
        loss = sqnr_db(floats[name], fast[name])
        expect(np.isfinite(fast[name]).all(), f"{name} is not finite")
        expect(loss >= decibels, f"{name}: {loss:.2f} dB against float, {decibels} expected")
        same, own = sqnr_db(fast[name][read], ours[name]), sqnr_db(fast[name], plain[name])
        # The runtime with and without its optimizer differ in rounding; nobody can be closer than that.
        wanted = min(loss + CLOSER_DB, EQUAL_DB, own - 3)
        expect(same >= wanted, f"{name}: our reading is {same:.2f} dB from the runtime, which is {loss:.2f} dB from float")


def check_recipe_knobs(suite):
    """Odd block counts, packed zero points, whole channels, transposed and shared weights, half precision."""
    rng = np.random.default_rng(3)
    make = onnx.helper
    for k in (80, 33, 256):
        for bits, symmetric in (("int4", True), ("uint4", False), ("int8", True), ("uint8", False)):
            for transposed, dtype in ((False, np.float32), (True, np.float32), (False, np.float16)):
                if k == 33 and dtype == np.float16 and bits.endswith("8"):
                    continue  # two blocks of 32 bytes and their scales: no smaller than the float16 weights
                with suite.case(f"MatMulNBits K={k} {bits} {'' if symmetric else 'zero points '}{'Gemm ' if transposed else ''}{np.dtype(dtype)}") as folder:
                    w = rng.standard_normal((24, k) if transposed else (k, 24)).astype(dtype)
                    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
                    node = make.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1) if transposed else make.make_node("MatMul", ["x", "w"], ["y"])
                    constants = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(rng.standard_normal(24).astype(dtype), "b")]
                    graph = make.make_graph([node], "g", [make.make_tensor_value_info("x", kind, ["N", k])],
                                            [make.make_tensor_value_info("y", kind, ["N", 24])], constants[: 2 if transposed else 1])
                    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), folder / "float.onnx")
                    written = quantize(folder / "float.onnx", "int4_weights", folder / "q.onnx",
                                       settings=[f"assign_formats.weights={bits}", f"assign_formats.symmetric={str(symmetric).lower()}"])
                    feeds = {"x": rng.standard_normal((16, k)).astype(dtype)}
                    compare(folder, folder / "float.onnx", written, feeds, 17 if bits.endswith("4") else 35, {"MatMulNBits": 1}, {"MatMul", "Gemm"}, 16)


def check_reference_reading(suite):
    """With activations left in float, a quantized file is closer to the float model: what remains is its weights."""
    for name, recipe in (("digits_cnn", "int8_static"), ("digits_transformer", "int8_static"), ("digits_transformer", "int8_dynamic"),
                         ("digits_transformer", "int4_weights")):
        with suite.case(f"{name}, {recipe}: the reference reading of the file") as folder:
            source, data = SAMPLES / "models" / f"{name}.onnx", SAMPLES / "data" / "digits_calib.npz"
            written = quantize(source, recipe, folder / "q.onnx", data)
            with np.load(data) as all_feeds:
                np.savez(folder / "data.npz", **{k: v[:16] for k, v in all_feeds.items() if k != "labels"})
            floats = reading(source, folder / "data.npz", folder)
            again = reading(source, folder / "data.npz", folder, "reference")
            coarse, fine = (reading(written, folder / "data.npz", folder, r) for r in ("quantized", "reference"))
            for output, wanted in floats.items():
                expect(np.array_equal(wanted, again[output]), f"{output}: a float file has one reading")
                near, far = sqnr_db(wanted, fine[output]), sqnr_db(wanted, coarse[output])
                expect(np.isfinite(near) and near > far - 0.5, f"{output}: {near:.2f} dB with float activations, {far:.2f} dB with codes")


def check_cuda_form(suite):
    """Files for the CUDA provider use operators that the CPU provider has too: they load and mean the same there."""
    check_small_weights(suite, "ort-cuda")


def held_out_digits():
    with np.load(SAMPLES / "data" / "digits_eval.npz") as arrays:
        return {k: v[:64] for k, v in arrays.items() if k != "labels"}


def check_small_weights(suite, target):
    """The CPU runtime makes MatMulNBits of every form of 4-bit weights."""
    with suite.case(f"digits_transformer, int4_weights for {target}, run on the CPU") as folder:
        source, written = SAMPLES / "models" / "digits_transformer.onnx", folder / "q.onnx"
        call("quantize", source, "--recipe", "int4_weights", "--target", target, "-o", written, "--quiet")
        compare(folder, source, written, held_out_digits(), 16, {"MatMulNBits": 20}, set())


def check_tensorrt_form(suite):
    """Files for TensorRT are pairs and standard operators, which the CPU runtime computes as they stand; what TensorRT asks
    of them (onnx-quantized section 5) is checked by their structure."""
    with suite.case("digits_cnn, int8_static for tensorrt: structure, and its meaning on the CPU") as folder:
        source, written = SAMPLES / "models" / "digits_cnn.onnx", folder / "q.onnx"
        call("quantize", source, "--recipe", "int8_static", "--target", "tensorrt", "--calib", SAMPLES / "data" / "digits_calib.npz", "-o", written, "--quiet")
        graph = onnx.load(written).graph
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        producer = {o: n for n in graph.node for o in n.output}
        quantized = 0
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero = constants[node.input[2]]
                expect(zero.dtype == np.int8 and not zero.any(), f"{node.name} has a zero point of {zero.dtype}, {zero.max()}")
                continue
            reads = [getattr(producer.get(v), "op_type", "") == "DequantizeLinear" for v in node.input]
            if node.op_type in ("Conv", "Gemm"):
                expect(reads[0] == reads[1], f"{node.name} has one operand in pairs")
                expect(not any(reads[2:]), f"the bias of {node.name} is quantized")
                quantized += reads[0]
            elif node.op_type == "Add":
                expect(sum(reads) == 1, f"{node.name} adds {sum(reads)} quantized operands, the shortcut alone should be")
            else:
                expect(not any(reads), f"{node.name} ({node.op_type}) reads codes")
        expect(quantized == 8, f"{quantized} products are quantized, all but the stem of one channel should be")
        feeds = held_out_digits()
        np.savez(folder / "data.npz", **feeds)
        floats, plain, ours = run(source, feeds), run(written, feeds, optimized=False), reading(written, folder / "data.npz", folder)
        for name in floats:
            loss, same = sqnr_db(floats[name], plain[name]), sqnr_db(plain[name], ours[name])
            expect(loss >= 30 and same >= loss + CLOSER_DB, f"{name}: {loss:.2f} dB against float, our reading {same:.2f} dB from the runtime")
    check_small_weights(suite, "tensorrt")


def check_fused_normalizations(suite):
    """Normalizations made one node of their parts mean the same to the runtime (which TensorRT's files rely on)."""
    import datasets
    for name, op, count in (("text/tashkeel_fp32_op16", "LayerNormalization", 14), ("lm/stories260K_op14", "RMSNormalization", 11),
                            ("audio/silero_vad_v2_mini_op11", "LayerNormalization", 8)):
        title = f"{name}: {count} x {op} instead of their parts"
        if skipped_without_models(suite, title):
            continue
        with suite.case(title) as folder:
            source, written = datasets.DATA / "models" / f"{name}.onnx", folder / "fused.onnx"
            call("opt", source, "--pass", "fuse_norm", "--set", "fuse_norm.when=always", "-o", written, "--quiet")
            found = sum(node.op_type == op for node in onnx.load(written).graph.node)
            expect(found == count, f"{found} x {op}")
            feeds, whole = datasets.reference_inputs(source), 1 << 30
            floats, fused = run(source, feeds, batch=whole), run(written, feeds, batch=whole)
            for output in floats:
                same = sqnr_db(floats[output], fused[output])
                expect(floats[output].dtype.kind != "f" or same >= 100, f"{output}: {same:.2f} dB")


def check_declarations(suite):
    """What is found out about shapes on the way is not written into declarations that had none."""
    with suite.case("declared values keep what they declare") as folder:
        rng, make = np.random.default_rng(5), onnx.helper
        weights = [numpy_helper.from_array(rng.standard_normal((64, 64)).astype(np.float32), n) for n in ("u", "v")]
        nodes = [make.make_node("MatMul", ["x", "u"], ["h"]), make.make_node("Relu", ["h"], ["r"]), make.make_node("MatMul", ["r", "v"], ["y"])]
        ends = [make.make_tensor_value_info(n, 1, ["batch", 64]) for n in ("x", "y")]
        declared = [make.make_tensor_value_info("h", 1, None), make.make_tensor_value_info("r", 1, ["batch", 64])]
        graph = make.make_graph(nodes, "g", ends[:1], ends[1:], weights, value_info=declared)
        source, written = folder / "m.onnx", folder / "q.onnx"
        onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), source)
        call("quantize", source, "--recipe", "int8_weights", "-o", written, "--quiet")
        kept = onnx.load(written)
        expect(kept.opset_import[0].version == 17, "the operator set was not raised, so nothing is shown")
        expect(list(kept.graph.value_info) == declared, f"declared: {list(kept.graph.value_info)}")


def skipped_without_models(suite, title):
    import datasets
    if (datasets.DATA / "models").exists():
        return False
    suite.skip(title, "no real models on this machine")
    return True


def check_announced(suite):
    """Files that run slower than the float model are said to be so; faster ones are not."""
    import datasets
    for name, slower in (("mnist8", True), ("resnet20", False), ("squeezenet", False)):
        title = f"{name}: {'slower' if slower else 'not slower'} than float, said before anybody measures"
        if skipped_without_models(suite, title):
            continue
        with suite.case(title) as folder:
            source, calib, _, _ = datasets.job(name)
            datasets.save_npz(folder / "calib.npz", calib[:8])
            quantize(source, "int8_static", folder / "q.onnx", folder / "calib.npz", json=folder / "report.json")
            report = json.loads((folder / "report.json").read_text())
            said = any("will be slower than the float model" in w["text"] for w in report["warnings"])
            expect(said == slower, f"warnings: {report['warnings']}")
            times = report["latency"]
            expect((times["quantized_ms"] > times["float_ms"]) == slower, f"estimate: {times}")
            if slower:
                quantize(source, "int8_static", folder / "q.onnx", folder / "calib.npz",
                         settings=["assign_formats.only_faster=true"], json=folder / "report.json")
                report = json.loads((folder / "report.json").read_text())
                times = report["latency"]
                expect(times["quantized_ms"] <= times["float_ms"], f"estimate with only_faster: {times}")
                expect(not any("slower" in w["text"] for w in report["warnings"]), f"warnings: {report['warnings']}")


def check_real(suite):
    import datasets
    jobs = [
        # resnet20 of opset 10: per-channel pairs need the operator set raised, or the result is slower than float.
        ("resnet20", "int8_static", 25.5, {"QLinearConv": 19, "QLinearAdd": 9, "QGemm": 1}, {"Conv", "FusedConv", "Gemm", "Add"}),
        # mnist8 of opset 8 and IR 3: initializers among the inputs.
        ("mnist8", "int8_static", 35, {"QLinearConv": 2}, {"Conv", "FusedConv"}),
        ("squeezenet", "int8_static", 20, {"QLinearConv": 26, "QLinearConcat": 8}, {"Conv", "FusedConv"}),
        ("self_attention", "int8_static", 38, {"QGemm": 4}, {"Gemm", "FusedGemm"}),
        # tashkeel: the arithmetic of relative positions must stay float, or indices leave their table.
        ("tashkeel", "int8_dynamic", 50, {"MatMulIntegerToFloat": 10}, set()),
        ("tashkeel", "int8_static", 20, {"MatMulIntegerToFloat": 10}, set()),
        ("tashkeel", "int4_weights", 15, {"MatMulNBits": 30}, set()),
    ]
    for name, recipe, decibels, kernels, absent in jobs:
        title = f"{name}, {recipe}"
        if skipped_without_models(suite, title):
            continue
        with suite.case(title) as folder:
            source, calib, evaluation, _ = datasets.job(name)
            datasets.save_npz(folder / "calib.npz", calib)
            written = quantize(source, recipe, folder / "q.onnx", folder / "calib.npz")
            evaluation = evaluation[:60]
            feeds = {n: np.concatenate([f[n] for f in evaluation]) for n in evaluation[0]}
            compare(folder, source, written, feeds, decibels, kernels, absent, one="dynamic" in recipe)

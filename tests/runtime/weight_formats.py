# SPDX-License-Identifier: Apache-2.0
"""Weights in every number format that ONNX Runtime can carry: what it makes of the written file, beside our reading."""
import subprocess

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from tools import QTOOL, call, expect, quantize, reading, run, session, sqnr_db
from whole_models import compare

#: Format: decibels of normal weights (docs/numbers.md), the operator that runs them.
FORMATS = {
    "int2": (5, "MatMulNBits"), "uint2": (6, "MatMulNBits"), "int3": (12, "MatMulNBits"), "int5": (25, "MatMulNBits"), "int6": (31, "MatMulNBits"),
    "int7": (33, "MatMulNBits"), "uint3": (12, "MatMulNBits"), "mxint8": (35, "MatMulNBits"), "bfp4": (17, "MatMulNBits"),
    "bfp8": (35, "MatMulNBits"), "nf4": (19, "MatMulBnb4"), "nf4_double": (19, "MatMulBnb4"), "fp4": (16, "MatMulBnb4"),
    "e4m3": (29, "DequantizeLinear"), "e5m2": (23, "DequantizeLinear"), "e4m3fnuz": (29, "DequantizeLinear"),
    "e5m2fnuz": (23, "DequantizeLinear"), "mxfp8_e4m3": (29, "DequantizeLinear"), "mxfp8_e5m2": (23, "DequantizeLinear"),
}
STORED = {"e4m3": 17, "e4m3fnuz": 18, "e5m2": 19, "e5m2fnuz": 20, "mxfp8_e4m3": 17, "mxfp8_e5m2": 19}
#: What it cannot run, and the format that is offered instead.
REFUSED = {"mxfp4": "nf4", "nvfp4": "nf4", "if4": "nf4", "e2m1": "nf4", "fp4_ue5m3": "nf4", "mxfp6_e2m3": "bfp6",
           "mxfp6_e3m2": "bfp6", "bfp16": "mxint8", "dynamic8": "e4m3"}
#: The same for the target onnx.
PORTABLE_REFUSED = {"if4": "nvfp4", "fp4_ue5m3": "e2m1", "nf4": "e2m1", "mxfp6_e2m3": "mxfp8_e4m3", "mxfp6_e3m2": "mxfp8_e4m3",
                    "bfp16": "mxint8", "dynamic8": "e4m3"}


def model(path, k, form, dtype=np.float32):
    rng, make = np.random.default_rng(5), onnx.helper
    kind = make.np_dtype_to_tensor_dtype(np.dtype(dtype))
    w = rng.standard_normal((24, k) if form == "Gemm" else (k, 24)).astype(dtype)
    node = make.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1) if form == "Gemm" else make.make_node("MatMul", ["x", "w"], ["y"])
    constants = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(rng.standard_normal(24).astype(dtype), "b")]
    graph = make.make_graph([node], "g", [make.make_tensor_value_info("x", kind, ["N", k])],
                            [make.make_tensor_value_info("y", kind, ["N", 24])], constants[: 2 if form == "Gemm" else 1])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), path)
    return path


def convolution(path):
    rng, make = np.random.default_rng(9), onnx.helper
    weights = {"w": rng.standard_normal((8, 16, 3, 3)).astype(np.float32), "b": rng.standard_normal(8).astype(np.float32)}
    node = make.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    graph = make.make_graph([node], "g", [make.make_tensor_value_info("x", 1, ["N", 16, 9, 9])],
                            [make.make_tensor_value_info("y", 1, ["N", 8, 9, 9])],
                            [numpy_helper.from_array(w, name) for name, w in weights.items()])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10), path)
    return path


def broken(written, path):
    """The file with its first code changed."""
    graph = onnx.load(written)
    codes = next(i for i in graph.graph.initializer if i.name.endswith(("_packed", "_quantized")))
    data = bytearray(codes.raw_data)
    data[0] ^= 0x80 if codes.data_type in STORED.values() else 0x70
    codes.raw_data = bytes(data)
    onnx.save(graph, path)
    return path


def verdict(path, source):
    return subprocess.run([QTOOL, "verify", path, "--against", source, "--quiet"], capture_output=True).returncode


def check_refused(suite, formats, target):
    for name, instead in formats.items():
        with suite.case(" ".join([name, "is refused", *target])) as folder:
            source = model(folder / "float.onnx", 192, "MatMul")
            done = subprocess.run([QTOOL, "quantize", source, "--recipe", "int4_weights", *target, "-o", folder / "q.onnx", "--quiet",
                                   "--set", f"assign_formats.weights={name}"], capture_output=True, text=True)
            expect(done.returncode == 2, f"exit code {done.returncode}: {done.stderr}")
            expect(f"weights: {instead}`" in done.stderr, done.stderr)
            expect(not (folder / "q.onnx").exists(), "a file was written")


def check_weight_formats(suite):
    rng = np.random.default_rng(6)
    for name, (decibels, kernel) in FORMATS.items():
        for form, dtype in (("MatMul", np.float32), ("Gemm", np.float32), ("MatMul", np.float16)):
            half = dtype == np.float16
            if half and name.startswith(("mx", "bfp", "nf4", "fp4")):
                continue  # scales beyond float16, kernels for float32
            with suite.case(f"{name} {form} {np.dtype(dtype)}") as folder:
                source = model(folder / "float.onnx", 192, form, dtype)
                settings = [f"assign_formats.weights={name}"] + (["assign_formats.symmetric=false"] if name[0] == "u" else [])
                settings += ["assign_formats.group=0"]
                written = quantize(source, "int4_weights", folder / "q.onnx", settings=settings)
                feeds = {"x": rng.standard_normal((16, 192)).astype(dtype)}
                compare(folder, source, written, feeds, decibels, {kernel: 1}, set(), 16)
                call("verify", written, "--against", source, "--quiet")
                if kernel != "MatMulNBits" and not half:
                    expect(verdict(broken(written, folder / "b.onnx"), source) == 8, "a code that is not the nearest is not found")
                if name in STORED:
                    kinds = {i.data_type for i in onnx.load(written).graph.initializer}
                    expect(STORED[name] in kinds, f"no codes of type {STORED[name]} among {kinds}")
    check_refused(suite, REFUSED, [])


#: For the target onnx: decibels of normal weights, ONNX types of codes and scales.
PORTABLE = {
    "int4": (17, 22, 1), "uint2": (4, 25, 1), "int8": (35, 3, 1), "e2m1": (17, 23, 1), "e4m3": (29, 17, 1), "mxfp4": (16, 23, 24),
    "mxfp8_e4m3": (29, 17, 24), "mxfp8_e5m2": (23, 19, 24), "mxint8": (35, 3, 24), "nvfp4": (19, 23, 17),
    "nvfp4_one_level": (18, 23, 17), "bfp4": (16, 22, 24), "uint3": (11, 21, 1),
}
#: The same for convolutions, with a scale per output channel; ONNX Runtime runs these files too.
CHANNELS = {"int4": (15, 22), "uint4": (15, 21), "int8": (35, 3), "uint3": (8, 21), "int3": (8, 22)}


def check_portable(suite):
    """Files in the standard alone: what ONNX's reference evaluator computes is what we read."""
    rng = np.random.default_rng(8)
    for name, (decibels, codes, scales) in PORTABLE.items():
        for form in ("MatMul", "Gemm"):
            with suite.case(f"{name} {form} for the target onnx") as folder:
                source, written = model(folder / "float.onnx", 192, form), folder / "q.onnx"
                call("quantize", source, "--recipe", "int4_weights", "--target", "onnx", "-o", written, "--quiet",
                     "--set", f"assign_formats.weights={name}", "--set", "assign_formats.group=0",
                     *(["--set", "assign_formats.symmetric=false"] if name[0] == "u" else []))
                file = onnx.load(written)
                onnx.checker.check_model(file, full_check=True)
                kinds = {i.data_type for i in file.graph.initializer}
                expect({codes, scales} <= kinds, f"types {kinds}, not {codes} and {scales}")
                feeds = {"x": rng.standard_normal((16, 192)).astype(np.float32)}
                np.savez(folder / "data.npz", **feeds)
                reference = ReferenceEvaluator(file).run(None, feeds)[0]
                same = sqnr_db(reference, reading(written, folder / "data.npz", folder)["y"])
                expect(same > 100, f"our reading is {same:.2f} dB from the reference")
                loss = sqnr_db(run(source, feeds)["y"], reference)
                expect(loss > decibels, f"{loss:.2f} dB against float, {decibels} expected")
                call("verify", written, "--against", source, "--quiet")
                expect(verdict(broken(written, folder / "b.onnx"), source) == 8, "a code that is not the nearest is not found")
    check_refused(suite, PORTABLE_REFUSED, ["--target", "onnx"])
    for name, (decibels, codes) in CHANNELS.items():
        with suite.case(f"{name} Conv for the target onnx") as folder:
            source, written = convolution(folder / "float.onnx"), folder / "q.onnx"
            call("quantize", source, "--recipe", "int4_weights", "--target", "onnx", "-o", written, "--quiet",
                 "--set", f"assign_formats.weights={name}", "--set", "assign_formats.grain=channel",
                 *(["--set", "assign_formats.symmetric=false"] if name[0] == "u" else []))
            file = onnx.load(written)
            onnx.checker.check_model(file, full_check=True)
            expect(codes in {i.data_type for i in file.graph.initializer}, f"no codes of type {codes}")
            feeds = {"x": rng.standard_normal((2, 16, 9, 9)).astype(np.float32)}
            np.savez(folder / "data.npz", **feeds)
            ours = reading(written, folder / "data.npz", folder)["y"]
            for other, found in {"the reference": ReferenceEvaluator(file).run(None, feeds)[0], "ONNX Runtime": run(written, feeds)["y"]}.items():
                expect(sqnr_db(found, ours) > 100, f"our reading is {sqnr_db(found, ours):.2f} dB from {other}")
            loss = sqnr_db(run(source, feeds)["y"], ours)
            expect(loss > decibels, f"{loss:.2f} dB against float, {decibels} expected")
            call("verify", written, "--against", source, "--quiet")
            expect(verdict(broken(written, folder / "b.onnx"), source) == 8, "a code that is not the nearest is not found")


def layer_model(path, node, shapes, x, y):
    """One node on x and normal weights of `shapes`."""
    rng, make = np.random.default_rng(9), onnx.helper
    constants = [numpy_helper.from_array((rng.standard_normal(s) * 0.15).astype(np.float32), name) for name, s in shapes.items()]
    graph = make.make_graph([node], "g", [make.make_tensor_value_info("x", 1, x)], [make.make_tensor_value_info("y", 1, y)], constants)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), path)
    return path


def each(model, inputs):
    """All outputs of one run per input."""
    s = session(model)
    return np.concatenate([s.run(None, {"x": x})[0].ravel() for x in inputs])


def check_solved_layers(suite):
    """gptq on weights of more than two dimensions, written for the target onnx: ONNX Runtime computes what we read."""
    rng, make = np.random.default_rng(10), onnx.helper
    recurrent = {"w": lambda d, g: (d, g * 32, 48), "r": lambda d, g: (d, g * 32, 32), "b": lambda d, g: (d, g * 64)}
    cases = {"batched MatMul": (make.make_node("MatMul", ["x", "w"], ["y"]), {"w": (2, 48, 20)}, [2, 32, 48], [2, 32, 20])}
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, d in (("forward", 1), ("bidirectional", 2)):
            node = make.make_node(op, ["x", "w", "r", "b"], ["y"], hidden_size=32, direction=direction)
            cases[f"{op} {direction}"] = node, {n: s(d, gates) for n, s in recurrent.items()}, [16, 4, 48], [16, d, 4, 32]
    for name, (node, shapes, declared, made) in cases.items():
        for bits in (4, 2):
            with suite.case(f"gptq of {name}, {bits} bits, for the target onnx") as folder:
                source = layer_model(folder / "float.onnx", node, shapes, declared, made)
                mixing = rng.standard_normal((6, 48))
                x = (24, *declared)
                data = (rng.standard_normal((*x[:-1], 6)) @ mixing + 0.2 * rng.standard_normal(x)).astype(np.float32)
                calib, held = data[:16], data[16:]
                np.savez(folder / "calib.npz", x=calib)
                np.savez(folder / "held.npz", x=held)
                losses = {}
                for recipe in (f"w{bits}_rtn", f"w{bits}_gptq"):
                    written = folder / f"{recipe}.onnx"
                    call("quantize", source, "--recipe", recipe, "--target", "onnx", "-o", written, "--quiet",
                         *(["--calib", folder / "calib.npz"] if "gptq" in recipe else []))
                    onnx.checker.check_model(onnx.load(written), full_check=True)
                    call("verify", written, "--against", source, "--lock", f"{written}.lock", "--quiet")
                    got = each(written, held)
                    same = sqnr_db(got, reading(written, folder / "held.npz", folder)["y"].ravel())
                    expect(same > 90, f"our reading is {same:.2f} dB from ONNX Runtime's")
                    weights = [i.name for i in onnx.load(written).graph.initializer if i.name.endswith("_quantized")]
                    expect(len(weights) == len([n for n in shapes if n != "b"]), f"codes of {weights}")
                    losses[recipe] = sqnr_db(each(source, held), got)
                plain, solved = losses.values()
                expect(solved > plain + 1, f"{solved:.2f} dB against float, {plain:.2f} dB rounded to nearest")

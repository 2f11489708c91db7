# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz corpus: small valid files that show each reader everything it knows.

Run with the packages of tests/requirements.txt after a format gained something new. Findings lie beside the seeds
and are not touched.
"""
import io
import json
import pathlib
import struct
import zipfile
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def put(target, name, data):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def onnx_models():
    """Name -> model: branches, loops, functions, shapes that constants decide, storage of every kind."""
    text = {
        "branch": """<ir_version: 8, opset_import: ["" : 17]>
            g (bool b, float[N, 2] x) => (float[N, 2] y) < float[2] w = {1.0, 2.0}, int64[3] i = {1, 2, 3} > {
              h = Neg (x)
              t = LeakyRelu <alpha = 0.5, many = [1, 2], words = ["a", "b"], k = float[2] {1.0, 2.0}> (h)
              y = If (b) < then_branch = p () => (float[N, 2] p) { p = Add (h, w) },
                           else_branch = q () => (float[N, 2] q) { q = Abs (t) } > }""",
        "function": """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
            g (float[N] x) => (float[N] z) { y = local.twice <by = 2.0> (x)  z = local.twice (y) }
            <domain: "local", opset_import: ["" : 17]>
            twice <by: float = 3.0> (a) => (c) { k = Constant <value_float: float = @by> ()  c = Mul (a, k) }""",
        "shapes": """<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 4, 6] x) => (float[M, 8] y)
            < int64[1] zero = {0}, int64[1] one = {1}, int64[2] to = {-1, 8}, int64[3] perm = {4, 4, 4} > {
              s = Shape (x)  a = Gather <axis = 0> (s, zero)  u = Unsqueeze (a, zero)  c = Concat <axis = 0> (u, to)
              sl = Slice (c, zero, one, zero)  r = Reshape (x, to)  f = ConstantOfShape (perm)  e = Expand (sl, one)
              t = Tile (e, one)  p = Pad (r, perm)  y = Identity (r) }""",
        "layers": """<ir_version: 8, opset_import: ["" : 13]>
            g (float[1, 1, 4, 4] x) => (float[1, 2] y)
            < float[2, 1, 2, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}, float[2] b = {0.5, -0.5},
              float[2, 18] g = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0,
                                1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0},
              float sc = {0.1}, uint8 zp = {3} > {
              c = Conv <kernel_shape = [2, 2]> (x, w, b)  r = Relu (c)  q = QuantizeLinear (r, sc, zp)
              d = DequantizeLinear (q, sc, zp)  f = Flatten (d)  y = Gemm <transB = 1> (f, g, b) }""",
        "loop": """<ir_version: 8, opset_import: ["" : 16]>
            g (float[2] x) => (float[2] last, float[K, 2] all) < int64 n = {3}, bool go = {1} > {
              last, all = Loop (n, go, x) < body = b (int64 i, bool c, float[2] v) => (bool c2, float[2] w, float[2] o) {
                c2 = Identity (c)  w = Add (v, x)  o = Mul (w, w) } > }""",
    }
    for name, source in text.items():
        yield name, parser.parse_model(source)

    weights = []
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64,
                  np.uint64, np.bool_, np.complex64):
        weights.append(numpy_helper.from_array(rng.integers(0, 2, (2, 3)).astype(dtype), np.dtype(dtype).name))
    for code in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.INT4, TensorProto.UINT4,
                 TensorProto.FLOAT4E2M1):
        weights.append(helper.make_tensor(f"t{code}", code, [3], [1.0, 0.0, 2.0]))
    weights.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"bc"]))
    weights.append(helper.make_tensor("floats", TensorProto.FLOAT, [2], [1.5, 2.5]))
    outside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "8")):
        outside.external_data.add(key=key, value=value)
    sparse = helper.make_sparse_tensor(helper.make_tensor("sp", TensorProto.FLOAT, [2], [1.0, 2.0]),
                                       helper.make_tensor("spi", TensorProto.INT64, [2], [1, 5]), [2, 4])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", None, 3]),
              helper.make_tensor_sequence_value_info("seq", TensorProto.INT64, None)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("Add", ["x", "float32"], ["y"], name="n", doc_string="d")], "g", inputs,
                              outputs, initializer=weights, sparse_initializer=[sparse], doc_string="graph")
    graph.metadata_props.add(key="k", value="v")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
                              ir_version=10, producer_name="seed")
    helper.set_model_props(model, {"a": "b"})
    yield "storage", model
    external = onnx.ModelProto()
    external.CopyFrom(model)
    external.graph.initializer.append(outside)
    yield "external", external
    scan_body = helper.make_graph([helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["o"])],
                                  "body", [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "e")],
                                  [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("t", "o")])
    scan = helper.make_graph(
        [helper.make_node("Scan", ["x", "xs"], ["last", "all"], body=scan_body, num_scan_inputs=1)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]), helper.make_tensor_value_info("xs", TensorProto.FLOAT, [3, 2])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, [2]), helper.make_tensor_value_info("all", TensorProto.FLOAT, [3, 2])])
    yield "scan", helper.make_model(scan, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def arrays():
    rng = np.random.default_rng(2)
    for dtype in ("<f4", "<f8", "<f2", "|i1", "|u1", "<i2", "<i8", "|b1", "<c8"):
        out = io.BytesIO()
        np.save(out, rng.integers(0, 2, (2, 3)).astype(dtype))
        put("npy", f"seed_{dtype[1:]}", out.getvalue())
    for name, array in (("fortran", np.asfortranarray(np.arange(6.0, dtype="f4").reshape(2, 3))),
                        ("scalar", np.float32(1)), ("empty", np.zeros((0, 4), "i4"))):
        out = io.BytesIO()
        np.save(out, array)
        put("npy", "seed_" + name, out.getvalue())
    out = io.BytesIO()
    np.lib.format.write_array(out, np.arange(3), version=(3, 0))
    put("npy", "seed_version3", out.getvalue())

    for name, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
        out = io.BytesIO()
        save(out, x=np.zeros((2, 3), "f4"), y=np.arange(4))
        put("npz", "seed_" + name, out.getvalue())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:  # sizes in zip64 fields, another member, a comment
        with z.open("x.npy", "w", force_zip64=True) as member:
            np.save(member, np.arange(3.0))
        z.writestr("readme.txt", "no array")
        z.comment = b"comment"
    put("npz", "seed_zip64", out.getvalue())

    def safetensors(header, data):
        head = json.dumps(header).encode()
        return struct.pack("<Q", len(head)) + head + data

    put("safetensors", "seed_two", safetensors(
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
         "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}}, bytes(22)))
    types = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "F16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1,
             "F8_E4M3": 1, "F8_E5M2": 1}
    at, header = 0, {}
    for name, size in types.items():
        header[name.lower()] = {"dtype": name, "shape": [1], "data_offsets": [at, at + size]}
        at += size
    put("safetensors", "seed_types", safetensors(header, bytes(at)))
    put("safetensors", "seed_empty", safetensors({"e": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}, b""))


def png(width, height, depth, color, rows, interlace=0, palette=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    middle = chunk(b"PLTE", palette) if palette else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def images():
    put("image", "seed_rgb", png(3, 2, 8, 2, (b"\0" + bytes(range(9))) * 2))
    put("image", "seed_gray16", png(2, 2, 16, 0, (b"\1" + bytes(range(4))) * 2))
    put("image", "seed_palette", png(4, 1, 2, 3, b"\0\x1b", palette=bytes(range(12))))
    put("image", "seed_rgba", png(1, 1, 8, 6, b"\0\1\2\3\4", interlace=0))
    pictures = CORPUS.parents[1] / "calib" / "files" / "pictures"
    put("image", "seed_jpeg", (pictures / "dog" / "tall.jpg").read_bytes())
    put("image", "seed_interlaced", png(2, 2, 8, 0, b"\0\1" + b"\0\2" + b"\0\3\4", interlace=1))


def words():
    put("recipe", "seed_static", (CORPUS.parents[2] / "recipes" / "int8_static.yaml").read_bytes())
    put("recipe", "seed_rules", """version: 1
target: ort-cpu
data: {path: d.npz, samples: 8, image: {resize: 32, mean: [0.5, 0.5, 0.5]}}
eval: {path: e.npz}
steps:
  - fold_constants
  - assign_formats: {method: weights, weights: int4, grain: groups, group: 32}
    where: {op: [Conv, MatMul], not_name: "*head*", region: "after:x", min_size: 100}
    id: main
  - round_nearest: {clip: mse}
rules:
  - where: {name: "*head*"}
    keep: float
emit: {form: qdq}
gate: {sqnr_db: 20, kl: 1e-2, top1_drop: 0.01, size_ratio: 0.5, agreement: .9}
""")
    put("recipe", "seed_flow", 'version: 1\n"steps": [a, {b: {c: [1, ~, \'x\', "y\\n"]}}]\ntarget: >\n  t\n')
    put("jsonl", "seed_maps", '{"input_ids": [1, 2, 3], "attention_mask": [1, 1, 0]}\n{"input_ids": [4]}\n')
    put("jsonl", "seed_lists", "[1, 2]\n\n[[3, 4], [5, 6]]\n[1.5, true, -2e3]\n")
    put("jsonl", "seed_text", '{"input_ids": [], "t\\u00e9\\n": null}\n')
    for name, array in (("f32", np.ones((2, 2), "f4")), ("i64", np.arange(3)), ("bool", np.array([True]))):
        put("tensor", "seed_" + name, numpy_helper.from_array(array, "t").SerializeToString())
    put("tensor", "seed_words", helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"]).SerializeToString())
    put("tensor", "seed_i4", helper.make_tensor("q", TensorProto.INT4, [3], [1, -2, 3]).SerializeToString())


def locks():
    use = {"node": "conv", "input": 1, "tensor": "w", "format": "int4", "grain": ["groups", 1, 32], "symmetric": True,
           "scale": {"count": 64, "sha256": "ab" * 32}, "zero_point": [7, -8.5], "steps": ["main", "round_nearest"],
           "rule": 2, "shape": [8, 64], "dtype": "f32", "float_sha256": "cd" * 32, "codes_sha256": "ef" * 32,
           "sqnr_db": 21.375}
    lock = {"schema": "qtool.lock/1", "qtool": "0.1.0", "model_sha256": "00" * 32, "recipe_sha256": "11" * 32,
            "calibration_sha256": None, "target": "ort-cpu", "seed": 0,
            "steps": [{"id": "main", "pass": "assign_formats", "revision": 1, "knobs": "method=weights"}],
            "folds": [{"step": "fold", "pass": "bias_correct", "node": "conv", "shift": "3ff0000000000000"}],
            "constants": [{"step": "fold", "name": "w", "was": None, "is": "22" * 32}],
            "uses": [use, dict(use, input=-1, grain=["blocks", 16, 16], bias=True, rule=None)],
            "layers": [{"node": "conv", "output": "y", "sqnr_db": 30.5}],
            "floats": [{"node": "head", "pass": "assign_formats", "why": "a rule keeps it float"}]}
    put("lock", "seed_all", json.dumps(lock, indent=1) + "\n")


def containers():
    golden = CORPUS.parents[1] / "golden" / "gguf"
    for target, name in (("gguf", "container.gguf"), ("gguf", "imatrix.gguf"), ("imatrix", "imatrix.gguf"),
                         ("imatrix", "imatrix.dat")):
        put(target, "seed_" + name.replace(".", "_"), (golden / name).read_bytes())


def main():
    for name, model in onnx_models():
        for target in ("onnx", "onnx_file"):
            put(target, "seed_" + name, model.SerializeToString())
    arrays()
    images()
    words()
    locks()
    containers()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Files by the package gguf of llama.cpp, into tests/golden/gguf: containers and importance matrices.

With --read FILE ... it reads files instead and prints what is in them, for a look at what qtool writes.
"""
import pathlib
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "gguf"


class Writer(GGUFWriter):
    def add_architecture(self):
        """Importance matrices name none."""


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def container():
    w = Writer(OUT / "container.gguf", "")
    w.add_custom_alignment(64)
    w.add_uint8("k.u8", 200)
    w.add_int8("k.i8", -7)
    w.add_uint16("k.u16", 65000)
    w.add_int16("k.i16", -300)
    w.add_uint32("k.u32", 4000000000)
    w.add_int32("k.i32", -5)
    w.add_float32("k.f32", 0.1)
    w.add_bool("k.bool", True)
    w.add_string("k.text", "größe")
    w.add_uint64("k.u64", 2**63 + 1)
    w.add_int64("k.i64", -2**62)
    w.add_float64("k.f64", 0.1)
    w.add_array("k.texts", ["a", "", "bcd"])
    w.add_key_value("k.bytes", [1, 2, 3], GGUFValueType.ARRAY, GGUFValueType.UINT8)
    w.add_array("k.floats", [0.5, -2.25])
    rng = np.random.default_rng(3)
    w.add_tensor("f32", rng.standard_normal((2, 3, 5), np.float32))
    w.add_tensor("f16", rng.standard_normal(7).astype(np.float16))
    w.add_tensor("q4_0", rng.integers(0, 256, (2, 36)).astype(np.uint8), raw_dtype=GGMLQuantizationType.Q4_0)
    w.add_tensor("q6_k", rng.integers(0, 256, (1, 420)).astype(np.uint8), raw_dtype=GGMLQuantizationType.Q6_K)
    w.add_tensor("i8", np.arange(-4, 4, dtype=np.int8))
    finish(w)


ENTRIES = {  # sums of squares [matrices, inputs] and tokens of each matrix
    "blk.0.attn_q.weight": ([[0.5, 1.25, 3.0, 0.0]], [12]),
    "blk.0.ffn_gate_exps.weight": ([[8.0, 2.0], [0.0, 0.0], [1.0, 4.0]], [4, 0, 8]),
    "blk.1.attn_q.weight": ([[7.0, 0.125]], [12]),
}


def matrix():
    w = Writer(OUT / "imatrix.gguf", "")
    w.add_type("imatrix")
    w.add_array("imatrix.datasets", ["calibration.txt"])
    w.add_uint32("imatrix.chunk_count", 3)
    w.add_uint32("imatrix.chunk_size", 4)
    for name, (sums, counts) in ENTRIES.items():
        w.add_tensor(name + ".in_sum2", np.array(sums, np.float32))
        w.add_tensor(name + ".counts", np.array(counts, np.float32)[:, None])
    finish(w)

    # The older kind, as llama.cpp's save_imatrix_legacy lays it out: no package writes it.
    def text(s):
        return struct.pack("<i", len(s)) + s.encode()

    out = struct.pack("<i", len(ENTRIES))
    for name, (sums, counts) in ENTRIES.items():
        calls = -(-max(counts) // 4)
        values = [s / c * calls if c else calls for row, c in zip(sums, counts) for s in row]
        out += text(name) + struct.pack(f"<ii{len(values)}f", calls, len(values), *values)
    (OUT / "imatrix.dat").write_bytes(out + struct.pack("<i", 3) + text("calibration.txt"))


def read(path):
    reader = GGUFReader(path)
    for key, field in reader.fields.items():
        print(key, field.contents())
    for t in reader.tensors:
        print(t.name, t.tensor_type.name, t.shape.tolist(), t.data.ravel()[:4].tolist())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        for file in sys.argv[2:]:
            read(file)
    else:
        OUT.mkdir(parents=True, exist_ok=True)
        container()
        matrix()
        print("container.gguf, imatrix.gguf, imatrix.dat")

# SPDX-License-Identifier: Apache-2.0
"""Plain rounding of a decoder in the shape of a small Llama (134 million random weights, float32) to 4 bits in blocks of 32:
`qtool quantize --recipe w4_rtn` from ONNX beside llama.cpp's quantizer to Q4_0 from GGUF, in pairs, on two threads.

    tests/bench/block_formats.py [--rounds 5] [--folder build/bench/llama]

qtool's time is that of the whole command, the check of the written file included; llama.cpp's is that of its one call alone. Peak
memory is that of the process; what Python takes before the call is told apart. Prints medians and, last, both ratios. The first
call builds llama.cpp in a virtual environment of its own, which takes some minutes.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import datasets
import peers

ROOT = datasets.ROOT
PYTHON = ROOT / "build/bench/venv-llama/bin/python"
PACKAGES = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "onnx==1.23.2", "numpy==2.4.6"]
HIDDEN, HEADS, INNER, WORDS, LAYERS = 768, 12, 2048, 32000, 12

QUANTIZE = r"""
import ctypes, json, resource, sys, time
import llama_cpp
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p())
params = llama_cpp.llama_model_quantize_default_params()
params.nthread, params.ftype, params.pure = 2, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, sys.argv[3] == "pure"
before, start = peak(), time.perf_counter()
wrong = llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params))
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
sys.exit(wrong)
"""

MODELS = r"""
import sys
import gguf, numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
HIDDEN, HEADS, INNER, WORDS, LAYERS = map(int, sys.argv[3:])
random, nodes, weights = np.random.default_rng(1), [], []
out = gguf.GGUFWriter(sys.argv[2], "llama")
for add, value in [(out.add_context_length, 2048), (out.add_embedding_length, HIDDEN), (out.add_block_count, LAYERS),
                   (out.add_feed_forward_length, INNER), (out.add_head_count, HEADS), (out.add_head_count_kv, HEADS),
                   (out.add_layer_norm_rms_eps, 1e-5), (out.add_rope_dimension_count, HIDDEN // HEADS), (out.add_vocab_size, WORDS),
                   (out.add_file_type, 0), (out.add_tokenizer_model, "no_vocab")]:
    add(value)
def weight(name, there, rows, columns, turned=True):
    w = random.standard_normal((rows, columns), np.float32) * np.float32(0.02)
    out.add_tensor(there, w)
    weights.append(numpy_helper.from_array(np.ascontiguousarray(w.T) if turned else w, name))
    return name
def node(op, inputs, output, **attributes):
    nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
    return output
def norm(x, name, there):
    out.add_tensor(there, np.ones(HIDDEN, np.float32))
    weights.append(numpy_helper.from_array(np.ones(HIDDEN, np.float32), name + ".weight"))
    return node("RMSNormalization", [x, name + ".weight"], name, axis=-1)
def linear(x, name, there, inner, width):
    return node("MatMul", [x, weight(name + ".weight", there, inner, width)], name)
weights += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in {"split": [0, 0, HEADS, HIDDEN // HEADS], "join": [0, 0, HIDDEN]}.items()]
x = node("Gather", [weight("table", "token_embd.weight", WORDS, HIDDEN, turned=False), "input_ids"], "embedded")
for i in range(LAYERS):
    at, there = f"layer{i}", f"blk.{i}"
    y = norm(x, at + ".first_norm", there + ".attn_norm.weight")
    q, k, v = (node("Transpose", [node("Reshape", [linear(y, f"{at}.{p}", f"{there}.attn_{p}.weight", HIDDEN, HIDDEN), "split"], f"{at}.{p}.split")],
                    f"{at}.{p}.heads", perm=[0, 2, 3, 1] if p == "k" else [0, 2, 1, 3]) for p in "qkv")
    mixed = node("MatMul", [node("Softmax", [node("MatMul", [q, k], at + ".scores")], at + ".shares", axis=-1), v], at + ".mixed")
    mixed = node("Reshape", [node("Transpose", [mixed], at + ".turned", perm=[0, 2, 1, 3]), "join"], at + ".joined")
    x = node("Add", [x, linear(mixed, at + ".out", there + ".attn_output.weight", HIDDEN, HIDDEN)], at + ".attended")
    y = norm(x, at + ".second_norm", there + ".ffn_norm.weight")
    gate = linear(y, at + ".gate", there + ".ffn_gate.weight", INNER, HIDDEN)
    silu = node("Mul", [gate, node("Sigmoid", [gate], at + ".sigmoid")], at + ".silu")
    y = node("Mul", [silu, linear(y, at + ".up", there + ".ffn_up.weight", INNER, HIDDEN)], at + ".gated")
    x = node("Add", [x, linear(y, at + ".down", there + ".ffn_down.weight", HIDDEN, INNER)], at + ".end")
linear(norm(x, "last_norm", "output_norm.weight"), "logits", "output.weight", WORDS, HIDDEN)
graph = helper.make_graph(nodes, "llama", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
                          [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", WORDS])], weights)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), sys.argv[1])
out.write_header_to_file(); out.write_kv_data_to_file(); out.write_tensors_to_file(); out.close()
"""


def install():
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", PYTHON.parents[1]], check=True)
    if subprocess.run([PYTHON, "-c", "import llama_cpp, gguf, onnx"], capture_output=True, check=False).returncode != 0:
        options = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
        subprocess.run([PYTHON, "-m", "pip", "install", *PACKAGES], check=True, env=datasets.environment() | options)


def run_qtool(folder):
    qtool = pathlib.Path(os.environ.get("QTOOL_BUILD", ROOT / "build/release")) / "qtool"
    command = [qtool, "quantize", folder / "llama.onnx", "--recipe", "w4_rtn", "--set", "assign_formats.embeddings=true",
               "--threads", "2", "--quiet", "-o", folder / "qtool.onnx"]
    seconds, mib, status, message = peers.timed(command, folder)
    if status != 0:
        sys.exit(f"qtool ended with {status}: {message}")
    return {"seconds": seconds, "before": 0, "peak": mib}


def run_peer(folder, kind):
    command = [PYTHON, "-c", QUANTIZE, folder / "llama.gguf", folder / f"{kind}.gguf", kind]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=datasets.environment()).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench/llama")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    install()
    if not (args.folder / "llama.gguf").exists():
        sizes = map(str, (HIDDEN, HEADS, INNER, WORDS, LAYERS))
        subprocess.run([PYTHON, "-c", MODELS, args.folder / "llama.onnx", args.folder / "llama.gguf", *sizes], check=True)
    kinds = {"llama.cpp Q4_0 (head Q6_K)": lambda: run_peer(args.folder, "mixed"),
             "llama.cpp Q4_0 --pure": lambda: run_peer(args.folder, "pure"),
             "qtool w4_rtn": lambda: run_qtool(args.folder)}
    seen = {name: [] for name in kinds}
    for round_number in range(args.rounds + 1):
        for name, run in kinds.items():
            result = run()
            if round_number > 0:  # the first one warms caches
                seen[name].append(result)
    median = {name: {key: statistics.median(r[key] for r in rows) for key in rows[0]} for name, rows in seen.items()}
    for name, m in median.items():
        print(f"{name:28} {m['seconds']:5.2f} s  peak {m['peak']:4.0f} MiB" + (f", {m['before']:.0f} before the call" if m["before"] else ""))
    ours, best = median["qtool w4_rtn"], min(m["seconds"] for n, m in median.items() if n != "qtool w4_rtn")
    least = min(m["peak"] for n, m in median.items() if n != "qtool w4_rtn")
    print(f"against the faster of the two: time {ours['seconds'] / best:.2f} x, memory {ours['peak'] / least:.2f} x")


if __name__ == "__main__":
    main()

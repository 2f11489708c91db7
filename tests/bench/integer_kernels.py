# SPDX-License-Identifier: Apache-2.0
"""Products of 8-bit codes on every integer kernel of qtool that runs here, beside ONNX Runtime's MatMulInteger (and
oneDNN inside torch where that is installed): GOP/s of square matrices, uint8 with a zero point times int8. Sides are
processes of their own and take turns in bursts; medians over all runs. ONNX Runtime packs a constant right operand ahead
("weight") or at every run ("input"), as qtool always does.

    build/venv/bin/python tests/bench/integer_kernels.py [--sizes 256,512,1024,2048] [--threads 1,2] [--seconds 3]
"""
import argparse
import contextlib
import importlib.util
import sys

from speed import BUILD, Server, in_turn

KERNELS = ["amx", "avx512_vnni", "avx2"]
NEEDS = {"amx": "amx_int8", "avx512_vnni": "avx512_vnni", "avx2": "avx2"}

PEER = r"""
import sys, time
import numpy as np, onnx, onnxruntime
from onnx import TensorProto as T, helper

threads, constant = int(sys.argv[1]), sys.argv[2] == "weight"

def session(n):
    b = np.full((n, n), 3, np.int8)
    inputs = [helper.make_tensor_value_info("a", T.UINT8, [n, n])]
    fixed = [helper.make_tensor("z", T.UINT8, [], [113])]
    if constant:
        fixed.append(onnx.numpy_helper.from_array(b, "b"))
    else:
        inputs.append(helper.make_tensor_value_info("b", T.INT8, [n, n]))
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b", "z"], ["c"])], "g", inputs,
                              [helper.make_tensor_value_info("c", T.INT32, [n, n])], fixed)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    s = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = s.io_binding()  # no copies of operands and result
    binding.bind_cpu_input("a", np.full((n, n), 3, np.uint8))
    if not constant:
        binding.bind_cpu_input("b", b)
    binding.bind_ortvalue_output("c", onnxruntime.OrtValue.ortvalue_from_shape_and_type([n, n], np.int32))
    return lambda: s.run_with_iobinding(binding)

sessions = {}
for line in sys.stdin:
    _, count, n = line.split()
    run = sessions.setdefault(n, None) or session(int(n))
    sessions[n] = run
    answer = []
    for _ in range(int(count)):
        processor, start = time.process_time(), time.perf_counter()
        run()
        answer += [(time.perf_counter() - start) * 1e3, (time.process_time() - processor) * 1e3]
    print(*answer, flush=True)
"""

TORCH = r"""
import sys, time
import torch
torch.set_num_threads(int(sys.argv[1]))
for line in sys.stdin:
    _, count, n = line.split()
    a, b = (torch.full((int(n), int(n)), 3, dtype=torch.int8) for _ in range(2))
    answer = []
    for _ in range(int(count)):
        processor, start = time.process_time(), time.perf_counter()
        torch._int_mm(a, b)
        answer += [(time.perf_counter() - start) * 1e3, (time.process_time() - processor) * 1e3]
    print(*answer, flush=True)
"""


class Ours(Server):
    """A kernel of ours: the request to multiply names it."""

    def __init__(self, kernel, threads):
        super().__init__(BUILD / "tests" / "qtool_executor_bench", threads)
        self.kernel = kernel

    def ask(self, _, count, n):
        return super().ask("codes", self.kernel, count, n)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="256,512,1024,2048")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    flags = open("/proc/cpuinfo").read().split()
    kernels = [k for k in KERNELS if NEEDS[k] in flags]
    for k in set(KERNELS) - set(kernels):
        print(f"SKIPPED: {k}: this processor has no {NEEDS[k]}", file=sys.stderr)
    peers = {"ONNX Runtime, weight": lambda t: Server(sys.executable, "-c", PEER, t, "weight"),
             "ONNX Runtime, input": lambda t: Server(sys.executable, "-c", PEER, t, "input")}
    if importlib.util.find_spec("torch"):
        peers["torch"] = lambda t: Server(sys.executable, "-c", TORCH, t)
    print("| n | threads | " + " | ".join(f"{k}, GOP/s" for k in [*kernels, *peers]) + " | best of ours / best peer |")
    print("|---|---|" + "---|" * (len(kernels) + len(peers) + 1))
    for threads in map(int, args.threads.split(",")):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Ours(k, threads)) for k in kernels]
            servers += [stack.enter_context(start(threads)) for start in peers.values()]
            for n in map(int, args.sizes.split(",")):
                times = in_turn(servers, lambda count: ("gemm", count, n), args.seconds)[0]
                rates = [2 * n**3 / ms / 1e6 for ms in times]
                ratio = max(rates[: len(kernels)]) / max(rates[len(kernels):])
                print(f"| {n} | {threads} | " + " | ".join(f"{r:.0f}" for r in rates) + f" | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

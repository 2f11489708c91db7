// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's CUDA provider: weights in few bits, activations in float. Read from the runtime's sources (the rules
// that list CUDA, contrib_ops/cuda/quantization/matmul_nbits.cc), not measured: no GPU was at hand. Files of this
// target run on the CPU provider as well, which is what the tests do with them.
#include "backends/backend.h"
#include "backends/ort_cpu/ort_cpu.h"

namespace qtool {
namespace {

Target ort_cuda_target() {
  Target target = ort_cpu::onnx_runtime();
  target.name = "ort-cuda";
  target.runtime = "ONNX Runtime CUDA";
  target.instruction_set = "sm75";
  target.abilities = onnx_form::weight_only_rows({"int4", "uint4", "int8", "uint8"}, {});
  target.abilities.front().note = "MatMulNBits; fused for float16 activations, groups of 32, 64 or 128, SM 7.5 on";
  const std::string_view unfused =
      "the CUDA provider fuses no int8 kernels: quantizers and float kernels would run one after another; use method "
      "weights";
  target.refused_methods = {{"static", unfused}, {"dynamic", unfused}};
  return target;
}

class OrtCudaEmitter final : public Emitter {
 public:
  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    return onnx_form::lowered(decided, target, journal, onnx_form::contrib_opset, onnx_form::lower_matmul_nbits);
  }
};

}  // namespace

namespace backend {
const BackendDef ort_cuda{
    "ort-cuda", "ONNX Runtime on NVIDIA GPUs: 4- and 8-bit weights, float activations",
    "Not measured: the rules were read in the sources of the runtime, and no file was run on a GPU. Measured: what the "
    "files compute, on the CPU provider, which runs them as well (tests/runtime).",
    ort_cuda_target, make_emitter<OrtCudaEmitter>};
}  // namespace backend
}  // namespace qtool

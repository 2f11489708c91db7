// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's CUDA provider: weights in few bits, activations in float. Read from the runtime's sources (the rules
// that list CUDA, contrib_ops/cuda/quantization/matmul_nbits.cc), not measured: no GPU was at hand. Files of this
// target run on the CPU provider as well, which is what the tests do with them.
#include <algorithm>

#include "backends/backend.h"
#include "backends/ort_cpu/ort_cpu.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

constexpr std::int64_t contrib_opset = 17;  // MatMulNBits was seen to run from here on; older files are raised

Ability weight_only(std::string_view op, std::string_view note) {
  Ability row{};
  row.op = op;
  row.role = Role::weight_only;
  row.data_inputs = {0};
  row.weight_input = 1;
  row.needs_constant_weight = true;
  row.weight_formats = {"int4", "uint4", "int8", "uint8"};
  row.groups = {16, 32, 64, 128, 256};
  row.note = note;
  return row;
}

std::vector<Ability> table() {
  std::vector<Ability> rows;
  rows.push_back(
      weight_only("MatMul", "MatMulNBits; fused for float16 activations, groups of 32, 64 or 128, SM 7.5 on"));
  rows.push_back(weight_only("Gemm", "MatMulNBits with its bias"));
  rows.back().bias_input = 2;
  rows.back().needs = {{"alpha", 1.0F, 1.0F}, {"transA", std::int64_t{0}, std::int64_t{0}}};
  rows.push_back(weight_only("Gather", "GatherBlockQuantized: rows of the table are dequantized as they are read"));
  rows.back().data_inputs = {};
  rows.back().weight_input = 0;
  rows.back().needs = {{"axis", std::int64_t{0}, std::int64_t{0}}};
  return rows;
}

Target ort_cuda_target() {
  Target target;
  target.name = "ort-cuda";
  target.runtime = "ONNX Runtime CUDA";
  target.version = "1.31";
  target.instruction_set = "sm75";
  target.max_opset = 26;
  target.max_ir = 13;
  target.domains = {"com.microsoft"};
  target.abilities = table();
  const std::string_view unfused =
      "the CUDA provider fuses no int8 kernels: quantizers and float kernels would run one after another; use method "
      "weights";
  target.refused_methods = {{"static", unfused}, {"dynamic", unfused}};
  return target;
}

class OrtCudaEmitter final : public Emitter {
 public:
  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    Graph graph = decided;
    const auto nodes = graph.nodes();
    const bool any = std::any_of(nodes.begin(), nodes.end(), [&](NodeId n) {
      return std::any_of(graph[n].inputs.begin(), graph[n].inputs.end(), [](const Use& use) { return use.quant; });
    });
    if (any && graph.opset() < contrib_opset) convert_opset(graph, contrib_opset);
    ort_cpu::Lowering lowering(std::move(graph), target, journal);
    ort_cpu::lower_weight_only(lowering);
    return lowering.finish();
  }
};

}  // namespace

namespace backend {
const BackendDef ort_cuda{"ort-cuda", "ONNX Runtime on NVIDIA GPUs: 4- and 8-bit weights, float activations",
                          ort_cuda_target, make_emitter<OrtCudaEmitter>};
}  // namespace backend
}  // namespace qtool

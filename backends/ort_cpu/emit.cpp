// SPDX-License-Identifier: Apache-2.0
// The emitter of the ort-cpu target: raises the opset where a decision needs it, then applies the rules.
#include <algorithm>

#include "backends/backend.h"
#include "backends/ort_cpu/ort_cpu.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

constexpr std::int64_t per_axis_opset = 13;  // QuantizeLinear and DequantizeLinear gain `axis`
constexpr std::int64_t sub_byte_opset = 21;  // ... and 4-bit and 16-bit codes
constexpr std::int64_t two_bit_opset = 25;   // ... and 2-bit codes

std::int64_t opset_for(const QuantSpec& spec) {
  if (spec.grain.kind == Grain::Kind::groups || spec.dynamic) return ort_cpu::contrib_opset;
  const int bits = bit_width(ort_cpu::storage_type(*spec.format));
  if (spec.is_bias || bits == 8) return per_axis_opset;
  return bits == 2 ? two_bit_opset : sub_byte_opset;
}

std::int64_t opset_for(const Graph& graph) {
  std::int64_t least = 0;
  const auto look = [&](const Use& use) {
    if (use.quant) least = std::max(least, opset_for(*use.quant));
  };
  for (const NodeId n : graph.nodes()) {
    for (const Use& use : graph[n].inputs) look(use);
  }
  for (const Use& use : graph.outputs) look(use);
  return least;
}

class OrtCpuEmitter final : public Emitter {
  std::string form_ = "qdq";
  bool only_standard_ = false;

 public:
  void options(Options& o) override {
    o("form", form_, "how static decisions are written: pairs that the runtime fuses, or its integer operators",
      {"qdq", "qoperator"});
    o("only_standard", only_standard_, "static decisions without operators of com.microsoft (form qdq)");
  }

  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    Graph graph = decided;
    const std::int64_t wanted = std::min(std::max(graph.opset(), opset_for(graph)), target.max_opset);
    if (graph.opset() != wanted) convert_opset(graph, wanted);
    ort_cpu::Lowering lowering(std::move(graph), target, journal);
    ort_cpu::lower_weight_only(lowering);
    ort_cpu::lower_dynamic(lowering);
    ort_cpu::lower_static(lowering, only_standard_ && form_ == "qdq");
    if (form_ == "qoperator") ort_cpu::fuse_pairs(lowering);
    return lowering.finish();
  }
};

}  // namespace

namespace backend {
const BackendDef ort_cpu{"ort-cpu", "ONNX Runtime on the CPU: fused int8 kernels, 2- to 8-bit weights", ort_cpu_target,
                         make_emitter<OrtCpuEmitter>};
}  // namespace backend
}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// The operator set that a graph's decisions need, and the rules applied to the graph at that set.
#include <algorithm>

#include "backends/onnx/rules.h"
#include "formats/file/reader.h"

namespace qtool::onnx_form {
namespace {

constexpr std::int64_t per_axis_opset = 13;  // QuantizeLinear and DequantizeLinear gain `axis`
constexpr std::int64_t four_bit_float_opset = 23;
constexpr std::int64_t power_scale_opset = 24;  // scales in float8e8m0
constexpr std::int64_t two_bit_opset = 25;

std::int64_t opset_for(const QuantSpec& spec, std::int64_t groups) {
  if (spec.grain.kind == Grain::Kind::groups) {
    const bool in_blocks = groups == blocked_opset || (!spec.format->is_integer && spec.format->onnx);
    if (!in_blocks || spec.dynamic) return groups;
    const DType type = storage_type(*spec.format);
    if (bit_width(type) == 2) return two_bit_opset;
    if (groups == blocked_opset && spec.scale_format == &number::e8m0) return power_scale_opset;
    return type == DType::f4e2m1 ? four_bit_float_opset : blocked_opset;
  }
  if (spec.dynamic) return contrib_opset;
  const int bits = bit_width(storage_type(*spec.format));
  if (spec.is_bias || bits == 8) return per_axis_opset;
  return bits == 2 ? two_bit_opset : blocked_opset;
}

std::int64_t opset_for(const Graph& graph, std::int64_t groups) {
  std::int64_t least = 0;
  const auto look = [&](const Use& use) {
    if (use.quant) least = std::max(least, opset_for(*use.quant, groups));
  };
  for (const NodeId n : graph.nodes()) {
    for (const Use& use : graph[n].inputs) look(use);
  }
  for (const Use& use : graph.outputs) look(use);
  return least;
}

}  // namespace

Graph lowered(const Graph& decided, const Target& target, Journal& journal, std::int64_t groups,
              const std::function<void(Lowering&)>& rules) {
  Graph graph = decided;
  const std::int64_t wanted = std::min(std::max(graph.opset(), opset_for(graph, groups)), target.max_opset);
  if (graph.opset() != wanted) convert_opset(graph, wanted);
  Lowering lowering(std::move(graph), target, journal);
  rules(lowering);
  return lowering.finish();
}

}  // namespace qtool::onnx_form

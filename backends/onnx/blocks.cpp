// SPDX-License-Identifier: Apache-2.0
// Weights in blocks in standard operators: DequantizeLinear with block_size before the product or the recurrent
// operator, from operator set 21 on (onnx-quantized.md section 4). Integers have zero points, float8 codes have none.
// Convolutions have a scale per output channel, in front of them the same without block_size.
#include <algorithm>
#include <array>

#include "backends/onnx/rules.h"

namespace qtool::onnx_form {
namespace {

constexpr std::int64_t as_float32 = 1;  // attribute output_dtype

/// Scales of `given` in their own format, as a value. `spec`: the same with both levels multiplied out.
ValueId typed_scale(Lowering& l, const Value& weight, const QuantSpec& given, const QuantSpec& spec, Attrs& attrs) {
  if (given.scale_format == &number::e8m0) {
    attrs.set("output_dtype", as_float32);
    return l.constant(weight.name + "_scale", from_f32(spec.scale, DType::f8e8m0));
  }
  const QuantSpec levels = with_scales(given, weight.data);
  const ValueId codes = l.constant(weight.name + "_scale_codes", from_f32(levels.scale, *levels.scale_format->onnx));
  const ValueId second = l.constant(weight.name + "_second_scale", levels.second_scale.reshaped({}));
  Type type;
  type.known_dtype = type.known_rank = true;
  type.shape = levels.scale.shape();
  const ValueId read = l.value(weight.name + "_scale", type, DType::f32);
  l.node("DequantizeLinear", "", {codes, second}, {read});
  return read;
}

void lower(Lowering& l, NodeId n, std::size_t position, const QuantSpec& given, Scales scales) {
  const Value weight = l.decided[l.input(n, position)];
  const QuantSpec spec = resolved(given, weight.data);
  const Tensor codes = stored_codes(spec);
  Attrs attrs;
  attrs.set("axis", static_cast<std::int64_t>(spec.grain.axis));
  if (spec.grain.kind == Grain::Kind::groups) attrs.set("block_size", spec.grain.group);
  const bool typed = scales == Scales::as_decided && given.scale_format != nullptr;
  std::vector<ValueId> inputs{l.constant(weight.name + "_quantized", codes)};
  inputs.push_back(typed ? typed_scale(l, weight, given, spec, attrs)
                         : l.constant(weight.name + "_scale", from_f32(spec.scale, weight.data.dtype())));
  if (spec.format->is_integer && !(typed && spec.zero_point.empty())) {
    inputs.push_back(l.constant(weight.name + "_zero_point", stored_zero_point(spec, codes.dtype())));
  }
  const ValueId read = l.value(weight.name + "_dequantized", weight.type, weight.data.dtype());
  l.node("DequantizeLinear", "", inputs, {read}, std::move(attrs));
  l.out[n].inputs[position] = {read, nullptr};
  l.emitted(n, l.decided[n].op + (spec.grain.kind == Grain::Kind::groups ? " of blocks" : " of channels"));
  if (!spec.format->is_integer) l.costs(n, "its weight is dequantized for every call");
}

/// Weights that an operator has, from input 1 on.
std::size_t weights_of(const Node& node) {
  constexpr std::array<std::string_view, 3> one{"MatMul", "Gemm", "Conv"}, two{"LSTM", "GRU", "RNN"};
  const auto among = [&](const auto& ops) { return std::find(ops.begin(), ops.end(), node.op) != ops.end(); };
  return !node.domain.empty() ? 0 : among(one) ? 1 : among(two) ? 2 : 0;
}

}  // namespace

void lower_blocks(Lowering& l, Scales scales) {
  for (const NodeId n : l.decided.nodes()) {
    const Node& node = l.decided[n];
    if (l.out[n].op != node.op) continue;  // lowered by another rule
    const bool conv = node.op == "Conv";
    if (conv && l.quant(n, 0)) continue;  // an integer kernel
    for (std::size_t i = 1; i <= weights_of(node); ++i) {
      const Quant spec = l.quant(n, i);
      if (!spec || !l.decided.is_constant(l.input(n, i))) continue;
      if (spec->grain.kind == (conv ? Grain::Kind::axis : Grain::Kind::groups)) lower(l, n, i, *spec, scales);
    }
  }
}

}  // namespace qtool::onnx_form

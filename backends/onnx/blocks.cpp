// SPDX-License-Identifier: Apache-2.0
// Weights in blocks in standard operators: DequantizeLinear with block_size before the product, from operator set 21 on
// (onnx-quantized.md section 4). Integers have zero points, float8 codes have none.
#include "backends/onnx/rules.h"

namespace qtool::onnx_form {
namespace {

void lower(Lowering& l, NodeId n, const QuantSpec& given) {
  const Value& weight = l.decided[l.input(n, 1)];
  const QuantSpec spec = resolved(given, weight.data);
  const Tensor codes = stored_codes(spec);
  std::vector<ValueId> inputs{l.constant(weight.name + "_quantized", codes),
                              l.constant(weight.name + "_scale", from_f32(spec.scale, weight.data.dtype()))};
  if (spec.format->is_integer) {
    inputs.push_back(l.constant(weight.name + "_zero_point", stored_zero_point(spec, codes.dtype())));
  }
  const ValueId read = l.value(weight.name + "_dequantized", weight.type, weight.data.dtype());
  Attrs attrs;
  attrs.set("axis", static_cast<std::int64_t>(spec.grain.axis));
  attrs.set("block_size", spec.grain.group);
  l.node("DequantizeLinear", "", inputs, {read}, std::move(attrs));
  l.out[n].inputs[1] = {read, nullptr};
  l.emitted(n, l.decided[n].op + " of blocks");
  if (!spec.format->is_integer) l.costs(n, "its weight is dequantized for every call");
}

}  // namespace

void lower_blocks(Lowering& l) {
  for (const NodeId n : l.decided.nodes()) {
    const Node& node = l.decided[n];
    if ((node.op != "MatMul" && node.op != "Gemm") || l.out[n].op != node.op) continue;  // or lowered by another rule
    const Quant spec = l.quant(n, 1);
    if (spec && spec->grain.kind == Grain::Kind::groups && l.decided.is_constant(l.input(n, 1))) lower(l, n, *spec);
  }
}

}  // namespace qtool::onnx_form

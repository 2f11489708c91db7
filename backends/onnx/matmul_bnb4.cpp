// SPDX-License-Identifier: Apache-2.0
// Weights in nf4 or fp4: MatMulBnb4 of com.microsoft. Rows of the transposed weight, one after the other, are cut into
// blocks with one float32 scale each; the first of two codes lies in the high bits of a byte (number-formats.md section
// 8).
#include "backends/onnx/rules.h"
#include "formats/base/error.h"
#include "formats/ir/absent.h"

namespace qtool::onnx_form {
namespace {

constexpr std::int64_t kind_fp4 = 0, kind_nf4 = 1;  // attribute quant_type

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Codes [N, K] as nibbles.
Tensor packed(const QuantSpec& spec, std::int64_t n, std::int64_t k, int k_axis) {
  const std::int64_t bytes = (n * k + 1) / 2;
  if (is_absent(spec.codes)) return absent(DType::u8, {bytes});
  Tensor result(DType::u8, {bytes});
  const auto to = result.write<std::uint8_t>();
  Tensor held = spec.codes;
  held.align();
  const auto codes = held.read<std::uint8_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t at = i * k + j;
      const unsigned code = codes[index(k_axis == 0 ? j * n + i : at)] & 15U;
      to[index(at / 2)] = static_cast<std::uint8_t>(to[index(at / 2)] | (at % 2 == 0 ? code << 4 : code));
    }
  }
  return result;
}

/// Scales [N, K / block] in one row.
Tensor flat_scales(const QuantSpec& spec, std::int64_t n, std::int64_t blocks, int k_axis) {
  if (is_absent(spec.codes)) return absent(DType::f32, {n * blocks});
  Tensor result(DType::f32, {n * blocks});
  const auto to = result.write<float>();
  const auto scale = spec.scale.read<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t b = 0; b < blocks; ++b)
      to[index(i * blocks + b)] = scale[index(k_axis == 0 ? b * n + i : i * blocks + b)];
  }
  return result;
}

void lower(Lowering& l, NodeId n, const QuantSpec& given) {
  const Node node = l.decided[n];
  const Value& weight = l.decided[l.input(n, 1)];
  const int k_axis = given.grain.axis;
  const std::int64_t k = weight.data.shape()[index(k_axis)], columns = weight.data.shape()[index(1 - k_axis)];
  QTOOL_ENSURE(weight.data.rank() == 2 && k % given.grain.group == 0, "whole blocks lie along the reduction axis");
  const QuantSpec spec = resolved(given, weight.data);
  const ValueId codes = l.constant(weight.name + "_packed", packed(spec, columns, k, k_axis));
  const ValueId scales = l.constant(weight.name + "_scales", flat_scales(spec, columns, k / given.grain.group, k_axis));

  Node& now = l.out[n];
  now.op = "MatMulBnb4";
  now.domain = "com.microsoft";
  now.attrs = {};
  now.attrs.set("K", k);
  now.attrs.set("N", columns);
  now.attrs.set("block_size", given.grain.group);
  now.attrs.set("quant_type", spec.format == &number::nf4 ? kind_nf4 : kind_fp4);
  now.extras = nullptr;
  now.inputs = {{l.input(n, 0), nullptr}, {codes, nullptr}, {scales, nullptr}};
  if (const ValueId bias = l.third_operand(n); bias != ValueId::none) {
    const ValueId result = now.outputs[0];
    const ValueId raw = l.value(l.out[result].name + "_product", l.out[result].type, l.out[result].type.dtype);
    now.outputs[0] = raw;
    l.node("Add", "", {raw, bias}, {result});
  }
  l.use_contrib();
  l.emitted(n, "MatMulBnb4");
  l.costs(n, "its kernel is slower than that of float weights: it saves memory alone");
}

}  // namespace

void lower_matmul_bnb4(Lowering& l) {
  for (const NodeId n : l.decided.nodes()) {
    const Node& node = l.decided[n];
    if (node.op != "MatMul" && node.op != "Gemm") continue;
    const Quant spec = l.quant(n, 1);
    if (!spec || spec->grain.kind != Grain::Kind::groups || !l.decided.is_constant(l.input(n, 1))) continue;
    if (spec->format == &number::nf4 || spec->format == &number::fp4) lower(l, n, *spec);
  }
}

}  // namespace qtool::onnx_form

// SPDX-License-Identifier: Apache-2.0
// Weight codes in blocks along the reduction axis: MatMulNBits and GatherBlockQuantized of com.microsoft, emitted
// directly. The pattern DequantizeLinear -> MatMul would need opset 21 and has traps that these operators have not
// (onnx-quantized.md section 4): transposed weights, shared weights and 2-bit columns.
#include <algorithm>

#include "backends/onnx/packed_rows.h"
#include "backends/onnx/rules.h"
#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/pack_bits.h"

namespace qtool::onnx_form {
namespace {

constexpr std::int64_t level_float = 1, level_int8 = 4;  // MatMulNBits accuracy_level: float32, int8 activations

// A weight [K,N] or [N,K] cut into columns of the product: rows of blocks.
struct Columns {
  std::int64_t n = 0, k = 0, block = 0, blocks = 0;
  int bits = 0;
  bool from_headers = false;  // planned from headers: shapes alone, and no numbers below
  HeldCodes codes;
  Tensor scales;                          // f32 [n, blocks]
  std::vector<std::uint8_t> zero_points;  // [n, blocks]; unsigned; where it is asymmetric
  bool asymmetric = false;                // some zero point is not the middle code
};

int stored_bits(const NumberFormat& format) { return format.bits <= 2 ? 2 : format.bits <= 4 ? 4 : 8; }

// One number per block of the weight as [n, blocks].
template <class T>
Tensor by_column(const Tensor& held, const Columns& c, int k_axis) {
  if (k_axis == 1) return held.reshaped({c.n, c.blocks});
  Tensor turned = Tensor::unset(held.dtype(), {c.n, c.blocks});
  const auto from = held.read<T>();
  const auto to = turned.write<T>();
  for (std::int64_t b = 0; b < c.blocks; ++b) {
    for (std::int64_t n = 0; n < c.n; ++n) {
      to[static_cast<std::size_t>(n * c.blocks + b)] = from[static_cast<std::size_t>(b * c.n + n)];
    }
  }
  return turned;
}

// `k_axis`: the axis of the reduction in the stored weight (0 or 1), which is the axis of the groups.
Columns cut(const QuantSpec& spec, const Shape& shape, int k_axis) {
  Columns c;
  c.k = shape[static_cast<std::size_t>(k_axis)];
  c.n = shape[static_cast<std::size_t>(1 - k_axis)];
  c.block = spec.grain.group;
  c.blocks = (c.k + c.block - 1) / c.block;
  c.bits = stored_bits(*spec.format);
  const int middle = 1 << (c.bits - 1);
  const int shift = spec.format->lowest < 0 ? middle : 0;  // signed codes are stored shifted to unsigned
  QTOOL_ENSURE(spec.codes.dtype() == code_type(*spec.format), "codes are held in the type of their format");
  if (is_absent(spec.codes)) {
    c.from_headers = true;
    c.asymmetric = !spec.symmetric || spec.format->lowest == 0;
    return c;
  }
  c.codes = {spec.codes, c.n, c.k, c.block, c.bits, k_axis == 0, static_cast<std::uint8_t>(shift)};
  c.scales = by_column<float>(spec.scale, c, k_axis);
  if (spec.zero_point.empty()) {
    c.asymmetric = shift != middle;
    if (c.asymmetric) c.zero_points.assign(static_cast<std::size_t>(c.n * c.blocks), static_cast<std::uint8_t>(shift));
    return c;
  }
  const auto held = spec.zero_point.read<std::int32_t>();
  c.asymmetric = std::any_of(held.begin(), held.end(), [&](std::int32_t z) { return z + shift != middle; });
  if (!c.asymmetric) return c;
  const bool one = held.size() == 1;
  const Tensor zeros = one ? spec.zero_point : by_column<std::int32_t>(spec.zero_point, c, k_axis);
  const auto z = zeros.read<std::int32_t>();
  c.zero_points.resize(static_cast<std::size_t>(c.n * c.blocks));
  for (std::size_t i = 0; i < c.zero_points.size(); ++i) {
    c.zero_points[i] = static_cast<std::uint8_t>(z[one ? 0 : i] + shift);
  }
  return c;
}

// [N, blocks, block * bits / 8]
Tensor pack_blocks(const Columns& c) {
  const std::int64_t blob = c.block * c.bits / 8;
  if (c.from_headers) return absent(DType::u8, {c.n, c.blocks, blob});
  return packed_rows(c.codes, c.blocks * blob, {c.n, c.blocks, blob});
}

// [N, ceil(K * bits / 8)]
Tensor pack_rows(const Columns& c) {
  const std::int64_t row = (c.k * c.bits + 7) / 8;
  if (c.from_headers) return absent(DType::u8, {c.n, row});
  return packed_rows(c.codes, row, {c.n, row});
}

// [N, ceil(blocks * bits / 8)]: each row starts on a byte, also where it ends within one.
Tensor pack_zero_points(const Columns& c) {
  const std::int64_t row = (c.blocks * c.bits + 7) / 8;
  if (c.from_headers) return absent(DType::u8, {c.n, row});
  Tensor packed(DType::u8, {c.n, row});
  std::byte* out = packed.write_bytes().data();
  for (std::int64_t n = 0; n < c.n; ++n) {
    pack_bits(c.zero_points.data() + n * c.blocks, c.blocks, c.bits, out + n * row);
  }
  return packed;
}

class WeightOnlyRule {
 public:
  explicit WeightOnlyRule(Lowering& l) : l_(l) {}

  void run() {
    for (const NodeId n : l_.decided.nodes()) {
      const Node& node = l_.decided[n];
      const std::size_t at = node.op == "Gather" ? 0 : 1;
      const Quant spec = l_.quant(n, at);
      if (!spec || spec->grain.kind != Grain::Kind::groups || !l_.decided.is_constant(l_.input(n, at))) continue;
      if (!spec->format->is_integer) continue;
      if (node.op == "Gather") gather(n, *spec);
      if (node.op == "MatMul" || node.op == "Gemm") product(n, *spec);
    }
  }

 private:
  DType compute_type(ValueId weight) const { return l_.decided[weight].data.dtype(); }

  void product(NodeId n, const QuantSpec& given) {
    const Node node = l_.decided[n];
    const ValueId w = l_.input(n, 1);
    const Value& weight = l_.decided[w];
    const int k_axis = node.op == "Gemm" && node.attrs.get("transB", std::int64_t{0}) != 0 ? 1 : 0;
    QTOOL_ENSURE(weight.data.rank() == 2 && given.grain.axis == k_axis, "blocks lie along the reduction axis");
    const Columns c = cut(resolved(given, weight.data), weight.data.shape(), k_axis);
    const bool int8_inside = l_.quant(n, 0) != nullptr;
    const bool could_be_inside = l_.target.arithmetic.weight_only_activation_bits != 0;
    if (could_be_inside && !int8_inside && c.bits != 4)
      l_.costs(n, "without 8-bit activations inside, this width runs slower than float");

    std::vector<ValueId> inputs{l_.input(n, 0), l_.constant(weight.name + "_packed", pack_blocks(c)),
                                l_.constant(weight.name + "_scales", scales(c, {c.n, c.blocks}, compute_type(w)))};
    if (c.asymmetric) inputs.push_back(l_.constant(weight.name + "_zero_points", pack_zero_points(c)));
    ValueId added = ValueId::none;  // a third operand of Gemm that is no bias
    if (const ValueId bias = l_.third_operand(n); bias != ValueId::none) {
      const Value& b = l_.decided[bias];
      if (b.data.shape() == Shape{c.n} || b.data.shape() == Shape{1, c.n}) {
        inputs.resize(5, ValueId::none);
        inputs.push_back(b.data.rank() == 1 ? bias : l_.constant(b.name + "_row", b.data.reshaped({c.n})));
      } else {
        added = bias;
      }
    }

    Attrs attrs;
    attrs.set("K", c.k);
    attrs.set("N", c.n);
    attrs.set("bits", std::int64_t{c.bits});
    attrs.set("block_size", c.block);
    // Written out, so that no session option changes what was measured.
    attrs.set("accuracy_level", int8_inside ? level_int8 : level_float);

    Node& now = l_.out[n];
    now.op = "MatMulNBits";
    now.domain = "com.microsoft";
    now.attrs = std::move(attrs);
    now.extras = nullptr;
    now.inputs.clear();
    for (const ValueId v : inputs) now.inputs.push_back({v, nullptr});
    if (added != ValueId::none) {
      const ValueId result = now.outputs[0];
      const ValueId raw = l_.value(l_.out[result].name + "_product", l_.out[result].type, l_.out[result].type.dtype);
      now.outputs[0] = raw;
      l_.node("Add", "", {raw, added}, {result});
    }
    l_.use_contrib();
    l_.emitted(n, "MatMulNBits");
    const auto bytes = static_cast<std::size_t>(c.n * c.blocks) * (static_cast<std::size_t>(c.block * c.bits / 8) + 4);
    if (bytes >= weight.data.size_bytes()) l_.costs(n, "codes and scales take more room than the float weights");
  }

  Tensor scales(const Columns& c, Shape shape, DType dtype) const {
    if (c.from_headers) return absent(dtype, std::move(shape));
    return from_f32(c.scales.reshaped(std::move(shape)), dtype);
  }

  // Rows of an embedding table, blocks along each row.
  void gather(NodeId n, const QuantSpec& given) {
    const ValueId table = l_.input(n, 0);
    const Value& value = l_.decided[table];
    QTOOL_ENSURE(value.data.rank() == 2 && given.grain.axis == 1, "blocks of a table lie along its rows");
    const Columns c = cut(resolved(given, value.data), value.data.shape(), 1);

    Node& now = l_.out[n];
    now.op = "GatherBlockQuantized";
    now.domain = "com.microsoft";
    now.attrs = {};
    now.attrs.set("gather_axis", std::int64_t{0});
    now.attrs.set("quantize_axis", std::int64_t{1});
    now.attrs.set("block_size", c.block);
    now.attrs.set("bits", std::int64_t{c.bits});
    now.extras = nullptr;
    const ValueId indices = now.inputs[1].value;
    now.inputs = {{l_.constant(value.name + "_packed", pack_rows(c)), nullptr},
                  {indices, nullptr},
                  {l_.constant(value.name + "_scales", scales(c, {c.n, c.blocks}, compute_type(table))), nullptr}};
    if (c.asymmetric) now.inputs.push_back({l_.constant(value.name + "_zero_points", pack_zero_points(c)), nullptr});
    l_.use_contrib();
    l_.emitted(n, "GatherBlockQuantized");
  }

  Lowering& l_;
};

}  // namespace

void lower_matmul_nbits(Lowering& l) { WeightOnlyRule(l).run(); }

}  // namespace qtool::onnx_form

// SPDX-License-Identifier: Apache-2.0
// Weight codes in blocks along the reduction axis: MatMulNBits and GatherBlockQuantized of com.microsoft, emitted
// directly. The pattern DequantizeLinear -> MatMul would need opset 21 and has traps that these operators have not
// (onnx-quantized.md section 4): transposed weights, shared weights and 2-bit columns.
#include <algorithm>
#include <cstring>

#include "backends/onnx/rules.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/absent.h"

namespace qtool::onnx_form {
namespace {

constexpr std::int64_t level_float = 1, level_int8 = 4;  // MatMulNBits accuracy_level: float32, int8 activations

// A weight [K,N] or [N,K] cut into columns of the product: rows of blocks.
struct Columns {
  std::int64_t n = 0, k = 0, block = 0, blocks = 0;
  int bits = 0;
  bool from_headers = false;              // planned from headers: shapes alone, and no codes below
  std::vector<std::uint8_t> codes;        // [n, k], unsigned
  std::vector<float> scales;              // [n, blocks]
  std::vector<std::uint8_t> zero_points;  // [n, blocks]; unsigned
  bool asymmetric = false;                // some zero point is not the middle code
};

int stored_bits(const NumberFormat& format) { return format.bits <= 2 ? 2 : format.bits <= 4 ? 4 : 8; }

// to[j * rows + i] = from[i * columns + j] + up. Eight by eight, as words whose bytes change places.
void turn(const std::uint8_t* from, std::int64_t rows, std::int64_t columns, std::uint8_t up, std::uint8_t* to) {
  constexpr std::int64_t side = 8, strip = 64;  // bytes of a word, and of a line of the cache
  const auto swap = [](std::uint64_t& a, std::uint64_t& b, int by, std::uint64_t mask) {
    const std::uint64_t t = (a >> by ^ b) & mask;
    b ^= t;
    a ^= t << by;
  };
  const std::uint64_t shift = up * std::uint64_t{0x0101010101010101}, low = ~std::uint64_t{0} / 255 * 127;
  const std::int64_t whole_rows = rows / side * side, whole_columns = columns / side * side;
  for (std::int64_t left = 0; left < whole_columns; left += strip) {
    for (std::int64_t i = 0; i < whole_rows; i += side) {
      for (std::int64_t j = left; j < std::min(left + strip, whole_columns); j += side) {
        std::uint64_t w[side];
        for (std::int64_t r = 0; r < side; ++r) {
          std::memcpy(&w[r], from + (i + r) * columns + j, side);
          w[r] = ((w[r] & low) + (shift & low)) ^ ((w[r] ^ shift) & ~low);  // byte by byte
        }
        for (int r = 0; r < 4; ++r) swap(w[r], w[r + 4], 32, 0x00000000ffffffff);
        for (const int r : {0, 1, 4, 5}) swap(w[r], w[r + 2], 16, 0x0000ffff0000ffff);
        for (const int r : {0, 2, 4, 6}) swap(w[r], w[r + 1], 8, 0x00ff00ff00ff00ff);
        for (std::int64_t r = 0; r < side; ++r) std::memcpy(to + (j + r) * rows + i, &w[r], side);
      }
    }
  }
  const auto one = [&](std::int64_t i, std::int64_t j) {
    to[j * rows + i] = static_cast<std::uint8_t>(from[i * columns + j] + up);
  };
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) one(i, j);
  }
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
  const std::int64_t b_stride = k_axis == 0 ? c.n : 1, s_stride = k_axis == 0 ? 1 : c.blocks;
  QTOOL_ENSURE(spec.codes.dtype() == code_type(*spec.format), "codes are held in the type of their format");
  if (is_absent(spec.codes)) {
    c.from_headers = true;
    c.asymmetric = !spec.symmetric || spec.format->lowest == 0;
    return c;
  }
  c.codes.resize(static_cast<std::size_t>(c.n * c.k));
  c.scales.resize(static_cast<std::size_t>(c.n * c.blocks));
  c.zero_points.resize(c.scales.size());
  const auto bytes = spec.codes.bytes();
  const auto scale = spec.scale.read<float>();
  const auto zero = spec.zero_point.empty() ? std::span<const std::int32_t>{} : spec.zero_point.read<std::int32_t>();
  const auto* const held = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const auto up = static_cast<std::uint8_t>(shift);
  if (k_axis == 1) {
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::size_t i = 0; i < c.codes.size(); ++i) c.codes[i] = static_cast<std::uint8_t>(held[i] + up);
    });
  } else {
    turn(held, c.k, c.n, up, c.codes.data());
  }
  for (std::int64_t n = 0; n < c.n; ++n) {
    for (std::int64_t b = 0; b < c.blocks; ++b) {
      const auto from = static_cast<std::size_t>(b * b_stride + n * s_stride),
                 to = static_cast<std::size_t>(n * c.blocks + b);
      c.scales[to] = scale[from];
      const int z = (zero.empty() ? 0 : zero[zero.size() == 1 ? 0 : from]) + shift;
      c.zero_points[to] = static_cast<std::uint8_t>(z);
      c.asymmetric = c.asymmetric || z != middle;
    }
  }
  return c;
}

// `count` codes of `bits` bits, low bits first, into `out`, whose bytes are zero.
void pack(const std::uint8_t* codes, std::int64_t count, int bits, std::byte* out) {
  auto* const to = reinterpret_cast<std::uint8_t*>(out);
  std::int64_t i = 0;
  with_widest_vectors([&]() QTOOL_INLINE {
    if (bits == 8) {
      for (; i < count; ++i) to[i] = codes[i];
    } else if (bits == 4) {
      for (; i + 2 <= count; i += 2) {
        to[i / 2] = static_cast<std::uint8_t>((codes[i] & 15) | codes[i + 1] << 4);
      }
    } else {
      for (; i + 4 <= count; i += 4) {
        to[i / 4] = static_cast<std::uint8_t>((codes[i] & 3) | (codes[i + 1] & 3) << 2 | (codes[i + 2] & 3) << 4 |
                                              codes[i + 3] << 6);
      }
    }
  });
  const int per_byte = 8 / bits;
  for (; i < count; ++i) {
    const auto code = static_cast<unsigned>(codes[i] & ((1 << bits) - 1));
    to[i / per_byte] = static_cast<std::uint8_t>(to[i / per_byte] | code << (static_cast<int>(i % per_byte) * bits));
  }
}

// [N, blocks, block * bits / 8]; the tail of the last block is zero bytes.
Tensor pack_blocks(const Columns& c) {
  const std::int64_t blob = c.block * c.bits / 8;
  if (c.from_headers) return absent(DType::u8, {c.n, c.blocks, blob});
  Tensor packed(DType::u8, {c.n, c.blocks, blob});
  std::byte* out = packed.write_bytes().data();
  if (c.k % c.block == 0) {  // blocks follow one another without a gap
    pack(c.codes.data(), c.n * c.k, c.bits, out);
    return packed;
  }
  for (std::int64_t n = 0; n < c.n; ++n) {
    for (std::int64_t b = 0; b < c.blocks; ++b) {
      const std::int64_t begin = b * c.block, count = std::min(c.block, c.k - begin);
      pack(c.codes.data() + n * c.k + begin, count, c.bits, out + (n * c.blocks + b) * blob);
    }
  }
  return packed;
}

// [N, ceil(each * bits / 8)]: each row starts on a byte, also where it ends within one.
Tensor pack_rows(const Columns& c, const std::vector<std::uint8_t>& codes, std::int64_t each) {
  const std::int64_t row = (each * c.bits + 7) / 8;
  if (c.from_headers) return absent(DType::u8, {c.n, row});
  Tensor packed(DType::u8, {c.n, row});
  std::byte* out = packed.write_bytes().data();
  if (each * c.bits % 8 == 0) {
    pack(codes.data(), c.n * each, c.bits, out);
    return packed;
  }
  for (std::int64_t n = 0; n < c.n; ++n) pack(codes.data() + n * each, each, c.bits, out + n * row);
  return packed;
}

Tensor pack_zero_points(const Columns& c) { return pack_rows(c, c.zero_points, c.blocks); }

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
    return from_f32(Tensor::of<float>(std::move(shape), std::span<const float>(c.scales)), dtype);
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
    now.inputs = {{l_.constant(value.name + "_packed", pack_rows(c, c.codes, c.k)), nullptr},
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

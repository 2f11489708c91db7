// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/books.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qtool::verify {
namespace {

constexpr std::int64_t most = std::int64_t{1} << 30;

/// The four float8 types of TensorProto (ONNX, docs/docsource/technical/float8.md).
std::vector<float> float8_values(std::int32_t type) {
  constexpr std::int32_t e4m3fn = 17, e4m3fnuz = 18, e5m2 = 19;
  const bool four = type == e4m3fn || type == e4m3fnuz, unsigned_zero = type == e4m3fnuz || type > e5m2;
  const int mantissa = four ? 3 : 2, bias = (four ? 7 : 15) + (unsigned_zero ? 1 : 0);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> values(256);
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code & 127) >> mantissa, fraction = code & ((1 << mantissa) - 1);
    const double one = 1 << mantissa;
    double v = exponent == 0 ? std::ldexp(fraction / one, 1 - bias) : std::ldexp(1 + fraction / one, exponent - bias);
    if (code >= 128) v = -v;
    const bool special = unsigned_zero ? code == 128 : four ? (code & 127) == 127 : exponent == 31;
    values[static_cast<std::size_t>(code)] = special ? nan : static_cast<float>(v);
  }
  return values;
}

/// QLoRA, arXiv 2305.14314, appendix E, and the 4-bit float of the same library.
std::vector<float> bnb4_values(bool normal) {
  if (normal) {
    return {-1.0F,       -0.69619280F, -0.52507305F, -0.39491749F, -0.28444138F, -0.18477343F, -0.09105004F, 0.0F,
            0.07958030F, 0.16093020F,  0.24611230F,  0.33791524F,  0.44070983F,  0.56261700F,  0.72295684F,  1.0F};
  }
  std::vector<float> values{0.0F, 1.0F / 192, 2.0F / 3, 1.0F, 1.0F / 3, 0.5F, 1.0F / 6, 0.25F};
  for (std::size_t i = 0; i < 8; ++i) values.push_back(-values[i]);
  return values;
}

std::vector<float> floats_of(const TensorView& t) {
  std::vector<float> values(static_cast<std::size_t>(t.count()));
  t.read(0, values);
  return values;
}

}  // namespace

std::optional<std::vector<float>> scales_of(const Scene& s, const NodeView& dequantizer) {
  if (const TensorView* t = s.constant(dequantizer, 1)) {
    if (is_real(t->type)) return floats_of(*t);
    if (t->type != e8m0 || !t->raw || static_cast<std::int64_t>(t->bytes.size()) != t->count()) return std::nullopt;
    std::vector<float> values(t->bytes.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(std::ldexp(1.0, std::to_integer<int>(t->bytes[i]) - 127));
    }
    return values;
  }
  const NodeView* own = s.producer(dequantizer, 1, "DequantizeLinear");
  const TensorView *codes = own == nullptr ? nullptr : s.constant(*own, 0),
                   *second = own == nullptr ? nullptr : s.constant(*own, 1);
  if (codes == nullptr || second == nullptr || codes->type < f8_first || codes->type > f8_last || !codes->raw ||
      static_cast<std::int64_t>(codes->bytes.size()) != codes->count() || !is_real(second->type) ||
      second->count() != 1) {
    return std::nullopt;
  }
  const std::vector<float> table = float8_values(codes->type);
  const float unit = floats_of(*second)[0];
  std::vector<float> values(codes->bytes.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = table[std::to_integer<std::size_t>(codes->bytes[i])] * unit;
  }
  return values;
}

std::optional<Book> Book::minifloats(const TensorView& codes, std::span<const float> scales, std::int64_t axis,
                                     std::int64_t block) {
  const bool four = codes.type == f4, eight = codes.type >= f8_first && codes.type <= f8_last;
  if ((!four && !eight) || !codes.raw) return std::nullopt;
  const std::int64_t count = codes.count(), rank = static_cast<std::int64_t>(codes.dims.size());
  if (count <= 0 || static_cast<std::int64_t>(codes.bytes.size()) != (four ? (count + 1) / 2 : count) || block < 0 ||
      block > most) {
    return std::nullopt;
  }
  Book b;
  b.dims = codes.dims;
  if (four) {
    b.values = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
    for (std::size_t i = 0; i < 8; ++i) b.values.push_back(-b.values[i]);
  } else {
    b.values = float8_values(codes.type);
  }
  std::int64_t inner = 1, extent = 1, along = 1;
  if (scales.size() != 1 || block != 0) {
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) return std::nullopt;
    extent = codes.dims[static_cast<std::size_t>(axis)];
    for (auto i = static_cast<std::size_t>(axis) + 1; i < codes.dims.size(); ++i) inner *= codes.dims[i];
    along = block == 0 ? extent : (extent + block - 1) / block;
    const std::int64_t outer = block == 0 ? 1 : count / (extent * inner), each = block == 0 ? 1 : inner;
    if (static_cast<std::int64_t>(scales.size()) != outer * along * each) return std::nullopt;
  }
  b.codes.resize(static_cast<std::size_t>(count));
  b.scale.resize(b.codes.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = i / inner % extent, outer = i / (inner * extent);
    const std::int64_t from = scales.size() == 1 ? 0
                              : block == 0       ? at
                                                 : (outer * along + at / block) * inner + i % inner;
    const unsigned byte = std::to_integer<unsigned>(codes.bytes[static_cast<std::size_t>(four ? i / 2 : i)]);
    b.codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(four ? byte >> (i % 2 * 4) & 15U : byte);
    b.scale[static_cast<std::size_t>(i)] = scales[static_cast<std::size_t>(from)];
  }
  return b;
}

std::optional<Book> Book::bnb4(const Scene& s, const NodeView& n) {
  const TensorView *codes = s.constant(n, 1), *scale = s.constant(n, 2);
  const std::int64_t k = n.integer("K", 0), rows = n.integer("N", 0), block = n.integer("block_size", 0);
  if (codes == nullptr || scale == nullptr || codes->type != u8 || !codes->raw || !is_real(scale->type)) return {};
  if (k <= 0 || rows <= 0 || k > most || rows > most || block <= 0 || block > most) return std::nullopt;
  const std::int64_t count = k * rows;
  if (codes->count() != (count + 1) / 2 || scale->count() != (count + block - 1) / block) return std::nullopt;
  Book b;
  b.dims = {rows, k};
  b.values = bnb4_values(n.integer("quant_type", 0) == 1);
  const std::vector<float> scales = floats_of(*scale);
  b.codes.resize(static_cast<std::size_t>(count));
  b.scale.resize(b.codes.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const unsigned byte = std::to_integer<unsigned>(codes->bytes[static_cast<std::size_t>(i / 2)]);
    b.codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i % 2 == 0 ? byte >> 4 : byte & 15U);
    b.scale[static_cast<std::size_t>(i)] = scales[static_cast<std::size_t>(i / block)];
  }
  return b;
}

Book::Wrong Book::compare(std::span<const float> x) const {
  std::vector<float> sorted;
  for (const float v : values) {
    if (v == v) sorted.push_back(v);
  }
  std::sort(sorted.begin(), sorted.end());
  Wrong wrong;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const double u = static_cast<double>(x[i]) / static_cast<double>(scale[i]);
    const auto above = std::lower_bound(sorted.begin(), sorted.end(), u);
    double best = above == sorted.end() ? static_cast<double>(sorted.back()) : static_cast<double>(*above);
    if (above != sorted.begin() && std::abs(u - static_cast<double>(*(above - 1))) < std::abs(u - best)) {
      best = static_cast<double>(*(above - 1));
    }
    // Rounding of the quotient may move a number across a midpoint.
    const double slack = 0x1p-20 * (1 + std::abs(u));
    if (std::abs(u - static_cast<double>(values[codes[i]])) <= std::abs(u - best) + slack) continue;
    if (wrong.count++ > 0) continue;
    wrong.first = static_cast<std::int64_t>(i);
    wrong.nearest = best;
  }
  return wrong;
}

}  // namespace qtool::verify

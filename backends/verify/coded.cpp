// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/coded.h"

#include <algorithm>

namespace qtool::verify {
namespace {

constexpr std::int64_t most = std::int64_t{1} << 30;  // of an extent: products of two stay far from overflow

std::vector<float> floats_of(const TensorView& t) {
  std::vector<float> values(static_cast<std::size_t>(t.count()));
  t.read(0, values);
  return values;
}

/// Zero points of `count` scales, one or `count` of them.
std::optional<std::vector<float>> zeros_of(const TensorView* t, std::size_t count) {
  std::vector<float> values(count, 0.0F);
  if (t == nullptr) return values;
  if (!is_code(t->type) && t->type != i32) return std::nullopt;
  std::vector<std::int32_t> codes(static_cast<std::size_t>(t->count()));
  t->read(0, codes);
  if (codes.size() != count && codes.size() != 1) return std::nullopt;
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(codes[codes.size() == 1 ? 0 : i]);
  return values;
}

/// Codes of `bits` bits, low bits first, from the front of `bytes`.
template <unsigned bits, class T>
void unpack(Bytes bytes, std::span<T> out) {
  constexpr std::size_t each = 8 / bits;
  constexpr unsigned mask = (1U << bits) - 1U;
  const std::size_t whole = out.size() / each;
  for (std::size_t i = 0; i < whole; ++i) {
    const unsigned byte = std::to_integer<unsigned>(bytes[i]);
    for (std::size_t k = 0; k < each; ++k) out[i * each + k] = static_cast<T>(byte >> (k * bits) & mask);
  }
  for (std::size_t i = whole * each; i < out.size(); ++i) {
    out[i] = static_cast<T>(std::to_integer<unsigned>(bytes[whole]) >> (i % each * bits) & mask);
  }
}

template <class T>
void unpack(Bytes bytes, std::int64_t bits, std::span<T> out) {
  bits == 2 ? unpack<2>(bytes, out) : bits == 4 ? unpack<4>(bytes, out) : unpack<8>(bytes, out);
}

}  // namespace

std::optional<Coded> Coded::tensor(const TensorView& codes, std::vector<float> scales, const TensorView* zero,
                                   std::int64_t axis, std::int64_t block) {
  if (!is_code(codes.type)) return std::nullopt;
  Coded c;
  c.dims = codes.dims;
  c.name = codes.name;
  c.type = codes.type;
  c.codes_ = &codes;
  c.rows = codes.dims.size() < 2 ? 1 : codes.dims[0];
  if (c.rows == 0 || codes.count() == 0) return std::nullopt;
  c.width = codes.count() / c.rows;
  c.scale_ = std::move(scales);
  auto zeros = zeros_of(zero, c.scale_.size());
  if (!zeros) return std::nullopt;
  c.zero_ = std::move(*zeros);
  if (c.scale_.size() == 1) return c;
  const auto rank = static_cast<std::int64_t>(c.dims.size());
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank || block < 0 || block > most) return std::nullopt;
  c.extent_ = c.dims[static_cast<std::size_t>(axis)];
  for (auto i = static_cast<std::size_t>(axis) + 1; i < c.dims.size(); ++i) c.inner_ *= c.dims[i];
  c.block_ = block;
  const std::int64_t along = block == 0 ? c.extent_ : (c.extent_ + block - 1) / block;
  c.outer_step_ = block == 0 ? 0 : along * c.inner_;
  const std::int64_t outer = codes.count() / (c.extent_ * c.inner_);
  const std::int64_t wanted = block == 0 ? along : outer * along * c.inner_;
  return c.scale_count() == wanted ? std::optional(std::move(c)) : std::nullopt;
}

std::optional<Coded> Coded::blocks(const Scene& s, const NodeView& n) {
  const bool product = n.op == "MatMulNBits";
  const TensorView *codes = s.constant(n, product ? 1 : 0), *scale = s.constant(n, 2), *zero = s.constant(n, 3);
  const std::int64_t bits = n.integer("bits", 4), block = n.integer("block_size", product ? 0 : 128);
  if (codes == nullptr || scale == nullptr || block < 16 || !is_real(scale->type)) return std::nullopt;
  if (codes->type != u8 || !codes->raw || (bits != 2 && bits != 4 && bits != 8)) return std::nullopt;
  if (zero != nullptr && (zero->type != u8 || !zero->raw)) return std::nullopt;
  Coded c;
  c.name = codes->name;
  c.codes_ = codes;
  c.type = bits == 2 ? u2 : bits == 4 ? u4 : u8;
  c.bits_ = bits;
  if (product) {
    c.rows = n.integer("N", 0);
    c.width = n.integer("K", 0);
  } else {
    if (codes->dims.size() != 2) return std::nullopt;
    c.rows = codes->dims[0];
    c.width = codes->dims[1] * 8 / bits;
  }
  if (c.rows < 1 || c.width < 1 || c.rows > most || c.width > most || block > most) return std::nullopt;
  const std::int64_t along = (c.width + block - 1) / block;
  c.row_bytes_ = product ? along * block * bits / 8 : codes->dims[1];
  if (codes->count() != c.rows * c.row_bytes_ || scale->count() != c.rows * along) return std::nullopt;
  c.dims = {c.rows, c.width};
  c.scale_ = floats_of(*scale);
  c.zero_.assign(c.scale_.size(), static_cast<float>(1 << (bits - 1)));
  const std::int64_t zero_row = (along * bits + 7) / 8;
  if (zero != nullptr) {
    if (zero->count() != c.rows * zero_row) return std::nullopt;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      unpack(zero->bytes.subspan(static_cast<std::size_t>(r * zero_row), static_cast<std::size_t>(zero_row)), bits,
             std::span(c.zero_).subspan(static_cast<std::size_t>(r * along), static_cast<std::size_t>(along)));
    }
  }
  c.extent_ = c.width;
  c.block_ = block;
  c.outer_step_ = along;
  return c;
}

void Coded::codes(std::int64_t row, std::span<std::int32_t> out) const {
  if (bits_ == 0) return codes_->read(row * width, out);
  unpack(codes_->bytes.subspan(static_cast<std::size_t>(row * row_bytes_)), bits_, out);
}

void Coded::scales(std::int64_t row, std::span<float> scale, std::span<float> zero) const {
  if (scale_.size() == 1) {
    std::fill(scale.begin(), scale.end(), scale_[0]);
    std::fill(zero.begin(), zero.end(), zero_[0]);
    return;
  }
  const std::int64_t first = row * width;
  std::int64_t in = first % inner_, at = first / inner_ % extent_, outer = first / (inner_ * extent_);
  for (std::size_t i = 0; i < scale.size();) {
    // As far as the scales are one, or lie side by side.
    const bool line = inner_ == 1, blocked = block_ != 0, each = line != blocked;
    const std::int64_t from = outer * outer_step_ + (blocked ? at / block_ * inner_ : at) + (blocked ? in : 0);
    std::int64_t run = !line ? inner_ - in : blocked ? std::min(block_ - at % block_, extent_ - at) : extent_ - at;
    run = std::min(run, static_cast<std::int64_t>(scale.size() - i));
    const auto n = static_cast<std::size_t>(run);
    const auto to = static_cast<std::ptrdiff_t>(i);
    if (each) {
      std::copy_n(scale_.begin() + from, n, scale.begin() + to);
      std::copy_n(zero_.begin() + from, n, zero.begin() + to);
    } else {
      std::fill_n(scale.begin() + to, n, scale_[static_cast<std::size_t>(from)]);
      std::fill_n(zero.begin() + to, n, zero_[static_cast<std::size_t>(from)]);
    }
    i += n;
    if (line) {
      at += run;
    } else if ((in += run) == inner_) {
      in = 0;
      ++at;
    }
    if (at == extent_) {
      at = 0;
      ++outer;
    }
  }
}

}  // namespace qtool::verify

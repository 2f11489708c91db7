// SPDX-License-Identifier: Apache-2.0
#include "backends/onnx/packed_rows.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "formats/base/widest.h"
#include "formats/ir/pack_bits.h"

namespace qtool::onnx_form {
namespace {

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

class PackedRows {
 public:
  PackedRows(const HeldCodes& held, std::int64_t row) : h_(held), row_(row) {}

  Tensor tensor(Shape shape) const {
    const auto make = [rows = *this](std::size_t from, std::span<std::byte> out) { rows.make(from, out); };
    const auto size = static_cast<std::size_t>(h_.n * row_);
    const auto part = std::max<std::size_t>(1, static_cast<std::size_t>(h_.turned ? h_.n * row_ : row_));
    return Tensor(DType::u8, std::move(shape), Buffer::made(size, {part, make}));
  }

 private:
  static constexpr std::int64_t many = 1 << 17;  // codes looked at together

  void make(std::size_t from, std::span<std::byte> out) const {
    std::fill(out.begin(), out.end(), std::byte{0});
    const auto first = static_cast<std::int64_t>(from) / row_, count = static_cast<std::int64_t>(out.size()) / row_;
    h_.turned ? pack_across(out.data()) : pack_along(first, count, out.data());
  }

  void pack_along(std::int64_t first, std::int64_t count, std::byte* out) const {
    const std::int64_t together = std::max<std::int64_t>(1, many / h_.k);
    std::vector<std::uint8_t> some(static_cast<std::size_t>(std::min(together, count) * h_.k));
    for (std::int64_t at = 0; at < count; at += together) {
      const std::int64_t rows = std::min(together, count - at);
      const auto codes = std::span(some).first(static_cast<std::size_t>(rows * h_.k));
      h_.codes.read(static_cast<std::size_t>((first + at) * h_.k), std::as_writable_bytes(codes));
      with_widest_vectors([&]() QTOOL_INLINE {
        if (h_.up == 0) return;
        for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(code + h_.up);
      });
      if (h_.k * h_.bits == row_ * 8) {  // rows follow one another without a gap
        pack_bits(some.data(), rows * h_.k, h_.bits, out + at * row_);
        continue;
      }
      for (std::int64_t r = 0; r < rows; ++r) pack_bits(some.data() + r * h_.k, h_.k, h_.bits, out + (at + r) * row_);
    }
  }

  // Some blocks of all rows at a time.
  void pack_across(std::byte* out) const {
    const std::int64_t together = std::max<std::int64_t>(1, many / (h_.n * h_.block)) * h_.block;
    std::vector<std::uint8_t> held(static_cast<std::size_t>(std::min(together, h_.k) * h_.n)), codes(held.size());
    for (std::int64_t at = 0; at < h_.k; at += together) {
      const std::int64_t count = std::min(together, h_.k - at);
      const auto some = std::span(held).first(static_cast<std::size_t>(count * h_.n));
      h_.codes.read(static_cast<std::size_t>(at * h_.n), std::as_writable_bytes(some));
      turn(some.data(), count, h_.n, h_.up, codes.data());
      for (std::int64_t n = 0; n < h_.n; ++n)
        pack_bits(codes.data() + n * count, count, h_.bits, out + n * row_ + at * h_.bits / 8);
    }
  }

  HeldCodes h_;
  std::int64_t row_;
};

}  // namespace

Tensor packed_rows(const HeldCodes& held, std::int64_t row, Shape shape) {
  return PackedRows(held, row).tensor(std::move(shape));
}

}  // namespace qtool::onnx_form

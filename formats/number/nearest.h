// SPDX-License-Identifier: Apache-2.0
// Nearest: numbers to the nearest code of a format under scales that are fixed already. What quantize() does
// (formats/ir/quant.h), for solvers that visit a weight column by column: the same codes and values, bit for bit.
//
//   integers    code = round_half_even(clamp((x - minimum) / scale, lowest - zero, highest - zero)) + zero
//   others      code = nearest((x - minimum) / scale), ties to the even code
//   value       scale * (decode(code) - zero) + minimum
//
// Formats of 8 bits or fewer are searched in a table of the numbers at which one code gives way to the next. Immutable
// once made, hence safe to share between threads; making one costs some microseconds.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/widest.h"
#include "formats/number/number.h"

namespace qtool {

/// round_half_even(clamp(x / scale)) for bounds that are integers below 2^22: the code less its zero point. The sum
/// with 1.5 * 2^23 rounds; it never gives minus zero. NaN gives 0, as far as the bounds allow.
QTOOL_INLINE inline float integer_level(float x, float scale, float low, float high) {
  constexpr float magic = 12582912.0f;
  float v = x / scale;
  v = v == v ? v : 0.0f;
  v = v < low ? low : v;
  v = v > high ? high : v;
  return (v + magic) - magic;
}

/// Numbers at x, x + x_stride, ...: one row, one column, or all of a group. Steps likewise; step_stride 0: one for all.
struct Column {
  std::int64_t count = 0;
  const float* x = nullptr;
  std::int64_t x_stride = 1;
  const float* scale = nullptr;    // not zero; below zero: the alternative format, where there is one
  const float* zero = nullptr;     // whole numbers, integer formats only; null: 0
  const float* minimum = nullptr;  // null: 0
  std::int64_t step_stride = 1;
  float* value = nullptr;  // may be x; null: not wanted
  std::int64_t value_stride = 1;
  std::uint16_t* code = nullptr;  // consecutive, as NumberFormat::encode gives them; null: not wanted
};

class Nearest {
 public:
  /// `narrow`: without the lowest code of an integer format. `alternative`: used where the scale is below zero, with
  /// the scale's magnitude; it has no more bits than `format`, and neither is an integer format.
  explicit Nearest(const NumberFormat& format, bool narrow = false, const NumberFormat* alternative = nullptr);

  void round(const Column&) const;

 private:
  /// Codes in ascending order of their values, and the first number that belongs to each; floats as integers of the
  /// same order, so that minus zero has its own place.
  struct Table {
    std::vector<std::int32_t> from;  // [size]: from[i] is where code i + 1 begins; the tail never begins
    std::vector<float> value;
    std::vector<std::uint16_t> code;
    float nan_value = 0;
    std::uint16_t nan_code = 0;
    int first_step = 0;  // half of the size, a power of two
  };
  static Table table_of(const NumberFormat&);
  static void look_up(const Table&, const float* u, std::size_t n, float* value, std::uint16_t* code);
  void round_integers(const Column&) const;
  void round_reals(const Column&) const;
  void nearest(const float* u, std::size_t n, float* value, std::uint16_t* code) const;

  const NumberFormat* format_;
  float low_, high_;
  bool searched_ = false, has_alternative_ = false;
  Table table_, other_;
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Code books: formats whose values no formula of exponent and mantissa gives.
//
//   nf4          sixteen quantiles of the normal distribution in [-1, 1] (QLoRA, arXiv 2305.14314, appendix E)
//   fp4          the 4-bit float of bitsandbytes, which is not e2m1: twelfths with a sign
//   int4_on_six  -7 .. 7 times 6/7: the integers of IF4 (arXiv 2603.28765), on the range of e2m1
//   dynamic8     sign, a decade in unary, the rest linear within it (arXiv 2110.02861): scales of scales
#include <algorithm>
#include <array>
#include <limits>

#include "formats/number/describe.h"

namespace qtool::number {
namespace {

/// Values in ascending order and the code of each. Codes of neighbours differ in their last bit, so that of two equally
/// near values one is even.
template <std::size_t N>
struct Book {
  std::array<float, N> values = {};
  std::array<std::uint16_t, N> codes = {};

  std::uint16_t nearest(float x) const {
    const auto above = static_cast<std::size_t>(std::lower_bound(values.begin(), values.end(), x) - values.begin());
    if (above == 0) return codes[0];
    if (above == N) return codes[N - 1];
    // The midpoint of two floats is exact in double.
    const double middle = 0.5 * (static_cast<double>(values[above - 1]) + static_cast<double>(values[above]));
    const bool upper = codes[above] % 2 == 0 ? x >= middle : x > middle;
    return codes[upper ? above : above - 1];
  }
};

constexpr Book<16> nf4_book = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

struct NF4 {
  static constexpr int bits = 4;
  static constexpr float lowest = -1, highest = 1;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
  static std::uint16_t encode(float x) { return x != x ? 15 : nf4_book.nearest(x); }
  static float decode(std::uint16_t code) { return nf4_book.values[code & 15]; }
};

/// Magnitudes of fp4 in ascending order; the sign is bit 3.
constexpr Book<8> fp4_book = {{0.0f, 5.208333333e-03f, 0.16666667f, 0.25f, 0.33333333f, 0.5f, 0.66666667f, 1.0f},
                              {0, 1, 6, 7, 4, 5, 2, 3}};

struct FP4 {
  static constexpr int bits = 4;
  static constexpr float lowest = -1, highest = 1;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
  static std::uint16_t encode(float x) {
    if (x != x) return 3;
    const std::uint32_t sign = std::bit_cast<std::uint32_t>(x) >> 31;
    return static_cast<std::uint16_t>(fp4_book.nearest(sign != 0 ? -x : x) | (sign << 3));
  }
  static float decode(std::uint16_t code) {
    const auto at = std::find(fp4_book.codes.begin(), fp4_book.codes.end(), code & 7) - fp4_book.codes.begin();
    const float x = fp4_book.values[static_cast<std::size_t>(at)];
    return (code & 8) != 0 ? -x : x;
  }
};

/// Two's complement nibbles; -8 is not used and decodes to NaN.
struct Int4OnSix {
  static constexpr int bits = 4;
  static constexpr float lowest = -6, highest = 6;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
  static constexpr Book<15> book = [] {
    Book<15> b;
    for (int i = -7; i <= 7; ++i) {
      b.values[static_cast<std::size_t>(i + 7)] = static_cast<float>(i * 6) / 7.0f;
      b.codes[static_cast<std::size_t>(i + 7)] = static_cast<std::uint16_t>(i & 15);
    }
    return b;
  }();
  static std::uint16_t encode(float x) { return x != x ? 7 : book.nearest(x); }
  static float decode(std::uint16_t code) {
    const int i = ((code & 15) ^ 8) - 8;
    return i == -8 ? std::numeric_limits<float>::quiet_NaN() : book.values[static_cast<std::size_t>(i + 7)];
  }
};

constexpr Book<256> dynamic_book() {
  Book<256> b;
  std::size_t n = 0;
  double decade = 1e-6;
  for (int i = 0; i < 7; ++i, decade *= 10) {
    const int cells = 1 << i;
    for (int c = 0; c < cells; ++c) {
      const auto x = static_cast<float>(decade * (0.1 + 0.9 * (c + 0.5) / cells));
      b.values[n++] = x;
      b.values[n++] = -x;
    }
  }
  b.values[n++] = 0;
  b.values[n++] = 1;
  std::sort(b.values.begin(), b.values.end());
  for (std::size_t i = 0; i < n; ++i) b.codes[i] = static_cast<std::uint16_t>(i);
  return b;
}

struct Dynamic8 {
  static constexpr int bits = 8;
  static constexpr Book<256> book = dynamic_book();
  static constexpr float lowest = book.values[0], highest = 1;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
  static std::uint16_t encode(float x) { return x != x ? 255 : book.nearest(x); }
  static float decode(std::uint16_t code) { return book.values[code & 255]; }
};

}  // namespace

constinit const NumberFormat nf4 = describe<NF4>("nf4");
constinit const NumberFormat fp4 = describe<FP4>("fp4");
constinit const NumberFormat int4_on_six = describe<Int4OnSix>("int4_on_six");
constinit const NumberFormat dynamic8 = describe<Dynamic8>("dynamic8");

}  // namespace qtool::number

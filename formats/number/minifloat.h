// SPDX-License-Identifier: Apache-2.0
// Minifloat<E, M, Top>: sign, E exponent bits, M mantissa bits. Exponent 0 holds subnormals:
// 2^(1-bias) * m / 2^M; otherwise 2^(e-bias) * (1 + m / 2^M). Top says what the largest codes mean.
// Sources: OCP 8-bit floating point 1.0, OCP MX 1.0; fnuz: arXiv 2206.02915.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace qtool::number {

enum class Top : std::uint8_t {
  finite,  // every code is a number
  fn,      // S.11..1.11..1 is NaN, no infinity
  ieee,    // the top exponent holds infinity and NaN
  fnuz,    // 1.00..0 is NaN, no infinity, no minus zero, bias one larger
};

/// Positive codes are monotone in value, so rounding the float's own bits to nearest even rounds to the nearest
/// code, ties to the even code.
template <int E, int M, Top T>
struct Minifloat {
  static constexpr int bits = 1 + E + M;
  static constexpr int bias = (1 << (E - 1)) - 1 + (T == Top::fnuz ? 1 : 0);
  static constexpr std::uint32_t sign = 1u << (E + M);
  static constexpr std::uint32_t infinity = ((1u << E) - 1) << M;  // ieee only
  static constexpr std::uint32_t max_code = T == Top::ieee ? infinity - 1 : sign - 1 - (T == Top::fn ? 1 : 0);
  static constexpr std::uint32_t nan_code = T == Top::fnuz ? sign : T == Top::finite ? max_code : sign - 1;

  static constexpr float power_of_two(int e) {  // e in the normal range of float
    return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23);
  }
  static constexpr float decode(std::uint16_t code) {
    const std::uint32_t c = code & (2 * sign - 1), magnitude = c & (sign - 1);
    const auto nan = std::numeric_limits<float>::quiet_NaN();
    if (T == Top::fnuz && c == sign) return nan;
    if (T == Top::fn && magnitude == sign - 1) return nan;
    if (T == Top::ieee && magnitude > infinity) return nan;
    float x = 0;
    if (T == Top::ieee && magnitude == infinity) {
      x = std::numeric_limits<float>::infinity();
    } else if (magnitude >> M == 0) {
      x = static_cast<float>(magnitude) * power_of_two(1 - bias - M);
    } else {
      x = std::bit_cast<float>((magnitude << (23 - M)) + (static_cast<std::uint32_t>(127 - bias) << 23));
    }
    return (c & sign) != 0 ? -x : x;
  }
  static constexpr float highest = decode(max_code);
  static constexpr float lowest = -highest;

  /// Nearest, ties to even, saturating: what is beyond `highest`, infinity too, becomes `highest`.
  static constexpr std::uint16_t encode(float x) {
    const auto all = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t a = all & 0x7fffffffu;
    if (a > 0x7f800000u) return static_cast<std::uint16_t>(nan_code);
    constexpr float smallest_normal = power_of_two(1 - bias);
    std::uint32_t code = 0;
    if (a < std::bit_cast<std::uint32_t>(smallest_normal)) {
      // A float of this exponent has the subnormal step as its last bit; the sum rounds for us.
      constexpr float magic = power_of_two(1 - bias - M + 23);
      code = std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + magic) - std::bit_cast<std::uint32_t>(magic);
    } else {
      constexpr int drop = 23 - M;
      const std::uint32_t odd = (a >> drop) & 1u;
      code = ((a + (1u << (drop - 1)) - 1u + odd) >> drop) - (static_cast<std::uint32_t>(127 - bias) << M);
      code = code > max_code ? max_code : code;
    }
    const bool negative = (all >> 31) != 0 && !(T == Top::fnuz && code == 0);
    return static_cast<std::uint16_t>(negative ? code | sign : code);
  }
};

}  // namespace qtool::number

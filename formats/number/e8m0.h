// SPDX-License-Identifier: Apache-2.0
// E8M0: powers of two as scales (OCP MX 1.0): value 2^(code - 127), no sign, no zero, 0xFF is NaN. Zero and
// negative numbers round to the smallest, 2^-127; infinity saturates at 0xFE.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace qtool {

inline float e8m0_value(std::uint8_t code) {
  if (code == 0xff) return std::numeric_limits<float>::quiet_NaN();
  if (code == 0) return 0x1p-127f;  // a subnormal float
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 23);
}

namespace e8m0_detail {
inline std::uint8_t clamp_exponent(std::uint32_t biased) {
  return static_cast<std::uint8_t>(biased > 254 ? 254 : biased);
}
}  // namespace e8m0_detail

/// The largest power of two not above x.
inline std::uint8_t e8m0_down(float x) {
  const auto a = std::bit_cast<std::uint32_t>(x);
  if ((a & 0x7fffffffu) > 0x7f800000u) return 0xff;
  if ((a >> 31) != 0) return 0;
  return e8m0_detail::clamp_exponent(a >> 23);  // subnormals have exponent field 0
}

/// The smallest power of two not below x.
inline std::uint8_t e8m0_up(float x) {
  const auto a = std::bit_cast<std::uint32_t>(x);
  if ((a & 0x7fffffffu) > 0x7f800000u) return 0xff;
  if ((a >> 31) != 0 || a <= 0x00400000u) return 0;  // 2^-127 and below
  return e8m0_detail::clamp_exponent((a + 0x7fffffu) >> 23);
}

/// The nearest power of two; a tie (1.5 * 2^k) goes to the even code.
inline std::uint8_t e8m0_nearest(float x) {
  const std::uint8_t low = e8m0_down(x), high = e8m0_up(x);
  if (low == high || low == 0xff) return low;
  const double middle = 0.5 * (static_cast<double>(e8m0_value(low)) + static_cast<double>(e8m0_value(high)));
  if (x != middle) return x < middle ? low : high;
  return (low & 1) == 0 ? low : high;
}

}  // namespace qtool

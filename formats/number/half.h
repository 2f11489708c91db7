// SPDX-License-Identifier: Apache-2.0
// f16 (IEEE binary16) and bf16 to and from float: exact one way; nearest, ties to even, the other, with
// subnormals, overflow to infinity and NaN kept quiet.
#pragma once

#include <bit>
#include <cstdint>

namespace qtool {

inline float f16_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Shifted into place the number is too small by 2^112; the product is exact, subnormals included.
  const float x = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) | sign);
}

inline std::uint16_t float_to_f16(float x) {
  const auto all = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (all >> 16) & 0x8000u, a = all & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
  if (a < 0x38800000u) {  // below 2^-14: the sum with 0.5 has the subnormal step 2^-24 as its last bit
    const auto sum = std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + 0.5f);
    return static_cast<std::uint16_t>(sign | (sum - 0x3f000000u));
  }
  const std::uint32_t rounded = (a + 0xfffu + ((a >> 13) & 1u)) >> 13;
  const std::uint32_t code = rounded - (112u << 10);
  return static_cast<std::uint16_t>(sign | (code > 0x7c00u ? 0x7c00u : code));
}

inline float bf16_to_float(std::uint16_t b) { return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16); }

inline std::uint16_t float_to_bf16(float x) {
  const auto a = std::bit_cast<std::uint32_t>(x);
  if ((a & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((a >> 16) | 0x40u);
  return static_cast<std::uint16_t>((a + 0x7fffu + ((a >> 16) & 1u)) >> 16);
}

}  // namespace qtool

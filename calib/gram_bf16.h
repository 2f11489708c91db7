// SPDX-License-Identifier: Apache-2.0
// Kernels of X^T X on processors that multiply pairs of bfloat16 (calib/gram_tile.h).
#pragma once

#include <bit>
#include <cstdint>

#include "calib/gram_tile.h"

namespace qtool {

/// The bfloat16 nearest to a finite float, ties to even; the largest one where that would be infinity. What is below
/// 2^-50 is zero: then no sum of products is subnormal, which instructions for pairs would flush.
inline std::uint16_t bf16_for_products(float x) {
  constexpr std::uint32_t largest = 0x7f7f, least = (127 - 50) << 7;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const std::uint32_t magnitude = rounded & 0x7fff;
  const std::uint32_t kept = magnitude > largest ? largest : magnitude < least ? 0 : magnitude;
  return static_cast<std::uint16_t>(kept | (rounded & 0x8000));
}

/// AMX tiles, AVX-512 BF16, or null where the processor has neither or `vectors` are narrower.
const GramKernel* gram_of_pairs(Vectors vectors, const Processor&);

}  // namespace qtool

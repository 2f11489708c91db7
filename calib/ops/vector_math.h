// SPDX-License-Identifier: Apache-2.0
// exp, logistic and tanh of float arrays in code that compilers turn into vector instructions of any width: plain
// arithmetic, no branches, so every width gives the same bits. Errors below 1 ulp (exp), 1.3 ulp (tanh)
// and 2.2 ulp (logistic).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "formats/base/widest.h"

namespace qtool::vector_math {

/// e^x; 0 below -87, the largest finite values near 88.7, infinity above; NaN stays. Cody-Waite reduction by ln 2 and
/// the degree-6 polynomial of Cephes expf (S. Moshier).
QTOOL_INLINE inline float exp(float x) {
  const float clamped = x < -87.3F ? -87.3F : (x > 89.0F ? 89.0F : x);
  constexpr float round_bias = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = clamped * 1.44269504F + round_bias;
  const float n = shifted - round_bias;
  const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  // 2^(n-1) from the low bits, then twice that: n = 128 has no exponent of its own, and n = -126 gives 0.
  const float scale = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + (126U << 23));
  return p * scale * 2.0F;
}

/// 1 / (1 + e^-x).
QTOOL_INLINE inline float logistic(float x) { return 1.0F / (1.0F + exp(-x)); }

/// Odd polynomial of Cephes tanhf near zero, 1 - 2/(e^2|x| + 1) elsewhere.
QTOOL_INLINE inline float tanh(float x) {
  const float a = x < 0 ? -x : x;
  const float far = 1.0F - 2.0F / (exp(2.0F * a) + 1.0F);
  const float z = x * x;
  float p = -5.70498872745e-3F;
  p = p * z + 2.06390887954e-2F;
  p = p * z - 5.37397155531e-2F;
  p = p * z + 1.33314422036e-1F;
  p = p * z - 3.33332819422e-1F;
  const float near = p * z * x + x;
  const float signed_far = x < 0 ? -far : far;
  return a < 0.625F ? near : signed_far;
}

}  // namespace qtool::vector_math

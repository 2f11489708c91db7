// SPDX-License-Identifier: Apache-2.0
// Rotary position embeddings (Su et al., 2021, arXiv:2104.09864): pairs of elements of a head, turned by an angle that
// grows with the position.
#pragma once

#include <cstdint>

namespace qtool::op {

/// y = x with its first 2 * half elements rotated by the angles of `cos` and `sin` [half]; a pair is (i, i + half), or
/// (2i, 2i + 1) when interleaved. The other elements up to `width` are copied. y may be x.
template <class T>
void rotate(const T* x, T* y, const T* cos, const T* sin, std::int64_t half, bool interleaved, std::int64_t width) {
  const std::int64_t step = interleaved ? 2 : 1, partner = interleaved ? 1 : half;
  for (std::int64_t i = 0; i < half; ++i) {
    const T a = x[i * step], b = x[i * step + partner];
    y[i * step] = cos[i] * a - sin[i] * b;
    y[i * step + partner] = sin[i] * a + cos[i] * b;
  }
  for (std::int64_t i = 2 * half; i < width; ++i) y[i] = x[i];
}

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// The inner kernel of X^T X (calib/hessian.h): both factors are columns of one matrix that lies in panels, so that it
// is laid out once for both sides and only tiles of the upper triangle are formed.
#pragma once

#include <cstdint>

#include "formats/base/widest.h"

namespace qtool {

/// A panel holds `width` columns of X, row after row: x[k * width + column].
struct GramTile {
  static constexpr std::int64_t width = 48, height = 8;
  /// Rows whose products are summed in float32, one fused multiply-add after the other; such sums are added in double.
  static constexpr std::int64_t chain = 512;

  /// c[i * ldc + j] += sum over k < rows of a[k * width + i] * b[k * width + j], for i < height, j < width. `b` begins
  /// a panel, `a` lies at a multiple of `height` in one.
  using Add = void (*)(std::int64_t rows, const float* a, const float* b, double* c, std::int64_t ldc);
  /// With vectors that this processor has; those with fused multiply-add (avx2, avx512) give the same bits.
  static Add with(Vectors vectors);
};

}  // namespace qtool

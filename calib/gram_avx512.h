// SPDX-License-Identifier: Apache-2.0
// What the kernels of X^T X with 512-bit vectors have in common (calib/gram_tile.h).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

namespace qtool {

/// to[i] += sums[i], of 16.
__attribute__((target("avx512f"), always_inline)) inline void add_sums(double* to, __m512 sums) {
  constexpr __mmask8 all = 0xff;  // g++ 12 warns of what plain conversions leave unset
  const __m512d both = _mm512_castps_pd(sums);
  const __m256 low = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(all, both, 0));
  const __m256 high = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(all, both, 1));
  _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), _mm512_maskz_cvtps_pd(all, low)));
  _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), _mm512_maskz_cvtps_pd(all, high)));
}

}  // namespace qtool
#endif

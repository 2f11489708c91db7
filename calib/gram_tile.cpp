// SPDX-License-Identifier: Apache-2.0
#include "calib/gram_tile.h"

#include <algorithm>

#include "calib/gram_avx512.h"
#include "calib/gram_bf16.h"
#include "formats/number/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

constexpr std::int64_t width = GramKernel::most_width, height = 8;

/// As they are; where x is rounded, rows of a pair change places: the order in which instructions for pairs add.
template <bool Rounded>
void lay_out(const float* x, std::int64_t stride, std::int64_t columns, std::int64_t begin, std::int64_t end,
             std::int64_t rows, void* panel) {
  auto* const to = static_cast<float*>(panel);
  const std::int64_t depth = Rounded ? 2 : 1;
  for (std::int64_t k = begin; k < (end < rows ? end : (rows + depth - 1) / depth * depth); ++k) {
    float* const row = to + (Rounded ? k ^ 1 : k) * width;
    const std::int64_t there = k < rows ? columns : 0;
    if (Rounded) {
      for (std::int64_t c = 0; c < there; ++c) row[c] = bf16_to_float(bf16_for_products(x[k * stride + c]));
    } else {
      std::copy_n(x + k * stride, there, row);
    }
    std::fill(row + there, row + width, 0.0F);
  }
}

/// For processors without fused multiply-add, and for bytes that are the same on all.
void add_plain(std::int64_t rows, const void* left, std::int64_t column, const void* right, double* c,
               std::int64_t ldc) {
  const float *const a = static_cast<const float*>(left) + column, *const b = static_cast<const float*>(right);
  constexpr std::int64_t across = 4, down = 4;  // what the registers of any processor hold
  for (std::int64_t begin = 0; begin < rows; begin += GramKernel::chain) {
    const std::int64_t count = std::min(GramKernel::chain, rows - begin);
    for (std::int64_t i = 0; i < height; i += down) {
      for (std::int64_t j = 0; j < width; j += across) {
        float sum[down][across] = {};
        for (std::int64_t k = begin; k < begin + count; ++k) {
          for (std::int64_t r = 0; r < down; ++r) {
            for (std::int64_t s = 0; s < across; ++s) sum[r][s] += a[k * width + i + r] * b[k * width + j + s];
          }
        }
        for (std::int64_t r = 0; r < down; ++r) {
          for (std::int64_t s = 0; s < across; ++s) c[(i + r) * ldc + j + s] += static_cast<double>(sum[r][s]);
        }
      }
    }
  }
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void add_avx512(std::int64_t rows, const void* left, std::int64_t column,
                                                   const void* right, double* c, std::int64_t ldc) {
  const float *a = static_cast<const float*>(left) + column, *b = static_cast<const float*>(right);
  constexpr int lanes = 16, across = width / lanes;
  for (std::int64_t begin = 0; begin < rows; begin += GramKernel::chain) {
    const std::int64_t count = std::min(GramKernel::chain, rows - begin);
    __m512 sum[height][across];
    for (auto& row : sum) {
      for (auto& s : row) s = _mm512_setzero_ps();
    }
    for (std::int64_t k = 0; k < count; ++k, a += width, b += width) {
      __m512 value[across];
#pragma GCC unroll 8
      for (int s = 0; s < across; ++s) value[s] = _mm512_loadu_ps(b + s * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < height; ++r) {
        const __m512 x = _mm512_set1_ps(a[r]);
#pragma GCC unroll 8
        for (int s = 0; s < across; ++s) sum[r][s] = _mm512_fmadd_ps(x, value[s], sum[r][s]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < height; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < across; ++s) add_sums(c + r * ldc + s * lanes, sum[r][s]);
    }
  }
}

__attribute__((target("avx2,fma"))) void add_avx2(std::int64_t rows, const void* left_panel, std::int64_t column,
                                                  const void* right_panel, double* c, std::int64_t ldc) {
  const float *const a = static_cast<const float*>(left_panel) + column, *const b =
                                                                             static_cast<const float*>(right_panel);
  constexpr int lanes = 8, across = 3, down = 4;
  for (std::int64_t begin = 0; begin < rows; begin += GramKernel::chain) {
    const std::int64_t count = std::min(GramKernel::chain, rows - begin);
    for (std::int64_t i = 0; i < height; i += down) {
      for (std::int64_t j = 0; j < width; j += across * lanes) {
        __m256 sum[down][across];
        for (auto& row : sum) {
          for (auto& s : row) s = _mm256_setzero_ps();
        }
        const float *left = a + begin * width + i, *right = b + begin * width + j;
        for (std::int64_t k = 0; k < count; ++k, left += width, right += width) {
          __m256 value[across];
#pragma GCC unroll 8
          for (int s = 0; s < across; ++s) value[s] = _mm256_loadu_ps(right + s * lanes);
#pragma GCC unroll 8
          for (int r = 0; r < down; ++r) {
            const __m256 x = _mm256_broadcast_ss(left + r);
#pragma GCC unroll 8
            for (int s = 0; s < across; ++s) sum[r][s] = _mm256_fmadd_ps(x, value[s], sum[r][s]);
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < down; ++r) {
#pragma GCC unroll 8
          for (int s = 0; s < across; ++s) {
            double* to = c + (i + r) * ldc + j + s * lanes;
            const __m128 low = _mm256_castps256_ps128(sum[r][s]), high = _mm256_extractf128_ps(sum[r][s], 1);
            _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), _mm256_cvtps_pd(low)));
            _mm256_storeu_pd(to + 4, _mm256_add_pd(_mm256_loadu_pd(to + 4), _mm256_cvtps_pd(high)));
          }
        }
      }
    }
  }
}

#endif

template <bool Rounded>
const GramKernel& with(Vectors vectors) {
  static const auto kernel = [](const char* name, auto add) {
    return GramKernel{name, width, height, std::int64_t{Rounded ? 2 : 1}, std::int64_t{sizeof(float)}, lay_out<Rounded>,
                      add};
  };
  static const GramKernel plain = kernel("plain", add_plain);
#if defined(__x86_64__)
  static const GramKernel avx2 = kernel("avx2", add_avx2), avx512 = kernel("avx512", add_avx512);
  if (vectors == Vectors::avx512) return avx512;
  if (vectors == Vectors::avx2) return avx2;
#else
  static_cast<void>(vectors);
#endif
  return plain;
}

}  // namespace

const GramKernel& GramKernel::of(GramFormat format, Vectors vectors, const Processor& processor) {
  if (format == GramFormat::f32) return with<false>(vectors);
  if (const GramKernel* pairs = gram_of_pairs(vectors, processor)) return *pairs;
  return with<true>(vectors);
}

}  // namespace qtool

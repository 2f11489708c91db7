// SPDX-License-Identifier: Apache-2.0
#include "calib/gram_bf16.h"

#include <algorithm>

#include "calib/gram_avx512.h"
#include "formats/base/tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {

#if defined(__x86_64__)

namespace {

/// Rows 2 p and 2 p + 1 of a column: what one lane of an instruction multiplies.
using Pair = std::uint32_t;

/// Pairs of rows k and k + 1 for `width` columns, of which `columns` are there.
void lay_out_row(const float* x, std::int64_t stride, std::int64_t columns, std::int64_t k, std::int64_t rows,
                 std::int64_t width, Pair* to) {
  const float *const first = x + k * stride, *const second = first + stride;
  if (k >= rows) columns = 0;
  with_widest_vectors([&]() QTOOL_INLINE {
    if (k + 1 < rows) {
      for (std::int64_t c = 0; c < columns; ++c) {
        to[c] = bf16_for_products(first[c]) | Pair{bf16_for_products(second[c])} << 16;
      }
    } else {
      for (std::int64_t c = 0; c < columns; ++c) to[c] = bf16_for_products(first[c]);
    }
  });
  std::fill(to + columns, to + width, 0);
}

constexpr std::int64_t lanes = 16;

// AVX-512 BF16: pairs of rows one after the other, `wide` columns each.

constexpr std::int64_t wide = 48, high = 8, across = wide / lanes;

void lay_out_pairs(const float* x, std::int64_t stride, std::int64_t columns, std::int64_t begin, std::int64_t end,
                   std::int64_t rows, void* panel) {
  for (std::int64_t k = begin; k < end; k += 2) {
    lay_out_row(x, stride, columns, k, rows, wide, static_cast<Pair*>(panel) + k / 2 * wide);
  }
}

__attribute__((target("avx512f,avx512bf16"))) void add_pairs(std::int64_t rows, const void* left, std::int64_t column,
                                                             const void* right, double* c, std::int64_t ldc) {
  const Pair *a = static_cast<const Pair*>(left) + column, *b = static_cast<const Pair*>(right);
  for (std::int64_t begin = 0; begin < rows; begin += GramKernel::chain) {
    const std::int64_t count = (std::min(GramKernel::chain, rows - begin) + 1) / 2;
    __m512 sum[high][across];
    for (auto& row : sum) {
      for (auto& s : row) s = _mm512_setzero_ps();
    }
    for (std::int64_t k = 0; k < count; ++k, a += wide, b += wide) {
      __m512i value[across];
#pragma GCC unroll 8
      for (int s = 0; s < across; ++s) value[s] = _mm512_loadu_si512(b + s * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < high; ++r) {
        const __m512i x = _mm512_set1_epi32(static_cast<int>(a[r]));
#pragma GCC unroll 8
        for (int s = 0; s < across; ++s) {
          sum[r][s] = _mm512_dpbf16_ps(sum[r][s], reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(value[s]));
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < high; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < across; ++s) add_sums(c + r * ldc + s * lanes, sum[r][s]);
    }
  }
}

// AMX: 2 x 2 tiles of 16 x 16 sums. The right factor lies as above, the left one beside it, turned: of 16 columns the
// 16 pairs of a step after each other.

constexpr std::int64_t square = 2 * lanes, step = lanes;  // columns; pairs

void lay_out_tiles(const float* x, std::int64_t stride, std::int64_t columns, std::int64_t begin, std::int64_t end,
                   std::int64_t rows, void* panel) {
  Pair* const straight = static_cast<Pair*>(panel);
  for (std::int64_t k = begin; k < end; k += 2 * step) {
    Pair* const block = straight + k / 2 * 2 * square;  // `step` pairs of both forms
    Pair* const turned = block + step * square;
    for (std::int64_t p = 0; p < step; ++p)
      lay_out_row(x, stride, columns, k + 2 * p, rows, square, block + p * square);
    for (std::int64_t c = 0; c < square; ++c) {
      for (std::int64_t p = 0; p < step; ++p) turned[c * step + p] = block[p * square + c];
    }
  }
}

__attribute__((target("amx-tile,amx-bf16"))) void add_tiles(std::int64_t rows, const void* left, std::int64_t,
                                                            const void* right, double* c, std::int64_t ldc) {
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");  // g++ 12 believes that nobody reads what _tile_loadconfig reads
  _tile_loadconfig(&config);
  const auto *a = static_cast<const Pair*>(left), *b = static_cast<const Pair*>(right);
  constexpr std::int64_t block = 2 * step * square;  // both forms
  for (std::int64_t begin = 0; begin < rows; begin += GramKernel::chain) {
    const std::int64_t end = std::min(begin + GramKernel::chain, rows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t k = begin; k < end; k += 2 * step, a += block, b += block) {
      const Pair* const turned = a + step * square;
      _tile_loadd(4, turned, 4 * step);
      _tile_loadd(5, turned + lanes * step, 4 * step);
      _tile_loadd(6, b, 4 * square);
      _tile_loadd(7, b + lanes, 4 * square);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    alignas(64) float sums[square][square];
    _tile_stored(0, &sums[0][0], 4 * square);
    _tile_stored(1, &sums[0][lanes], 4 * square);
    _tile_stored(2, &sums[lanes][0], 4 * square);
    _tile_stored(3, &sums[lanes][lanes], 4 * square);
    asm volatile("" ::: "memory");  // that they were written, g++ 12 does not believe either
    for (std::int64_t i = 0; i < square; ++i) {
      for (std::int64_t j = 0; j < square; ++j) c[i * ldc + j] += static_cast<double>(sums[i][j]);
    }
  }
  _tile_release();
}

}  // namespace

const GramKernel* gram_of_pairs(Vectors vectors, const Processor& processor) {
  static constexpr GramKernel tiles{"AMX bf16",           square,        square,   2 * step,
                                    2 * sizeof(Pair) / 2, lay_out_tiles, add_tiles};
  static constexpr GramKernel pairs{"AVX-512 BF16", wide, high, 2, sizeof(Pair) / 2, lay_out_pairs, add_pairs};
  if (vectors != Vectors::avx512) return nullptr;
  return processor.amx_bf16 ? &tiles : processor.avx512_bf16 ? &pairs : nullptr;
}

#else

const GramKernel* gram_of_pairs(Vectors, const Processor&) { return nullptr; }

#endif

}  // namespace qtool

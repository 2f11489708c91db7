// SPDX-License-Identifier: Apache-2.0
// AVX2: codes are widened to 16 bits, whose products vpmaddwd adds in pairs without loss. (vpmaddubsw works on bytes,
// but saturates: 2 * 255 * 128 exceeds 16 bits.) A vector holds four columns, two partial sums each, joined at the end.
#include "backends/cpu/kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#endif

namespace qtool::kernel {
namespace {

#if defined(__x86_64__)

#define QTOOL_AVX2 __attribute__((target("avx2")))

constexpr int most_rows = 3, vectors = 4;  // 12 vectors of sums, 1 of each operand

/// Rows of one panel. `a`: the rows as 16-bit codes, one after the other.
template <int Rows>
QTOOL_AVX2 void block(const KernelTile& t, const std::int16_t* a, std::int64_t row, std::int64_t panel) {
  __m256i sum[Rows][vectors];
#pragma GCC unroll 3
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[r][v] = _mm256_setzero_si256();
  }
  const std::int8_t* b = t.b + panel * t.b_stride;
  for (std::int64_t l = 0; l < t.depth; l += 4, a += 4) {
    __m256i left[Rows];
#pragma GCC unroll 3
    for (int r = 0; r < Rows; ++r) {
      long long four = 0;
      std::memcpy(&four, a + r * t.depth, sizeof four);
      left[r] = _mm256_set1_epi64x(four);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v, b += 16) {
      const __m256i right = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
#pragma GCC unroll 3
      for (int r = 0; r < Rows; ++r) {
        sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(left[r], right));
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {  // eight columns
      const __m256i mixed = _mm256_hadd_epi32(sum[r][2 * half], sum[r][2 * half + 1]);
      __m256i eight = _mm256_permute4x64_epi64(mixed, 0xd8);
      auto* to = reinterpret_cast<__m256i*>(t.sums + (row + r) * t.sums_stride + panel * panel_columns + 8 * half);
      if (t.add) eight = _mm256_add_epi32(eight, _mm256_loadu_si256(to));
      _mm256_storeu_si256(to, eight);
    }
  }
}

using Block = void (*)(const KernelTile&, const std::int16_t*, std::int64_t row, std::int64_t panel);

constexpr std::array<Block, most_rows> blocks{block<1>, block<2>, block<3>};

QTOOL_AVX2 void widen(const KernelTile& t, std::int64_t row, std::int64_t rows, std::int16_t* to) {
  for (std::int64_t r = row; r < row + rows; ++r, to += t.depth) {
    const std::uint8_t* from = t.a + r * t.a_stride;
    for (std::int64_t l = 0; l < t.depth; ++l) to[l] = from[l];
  }
}

void multiply(const KernelTile& t) {
  const auto wide = std::make_unique_for_overwrite<std::int16_t[]>(static_cast<std::size_t>(most_rows * t.depth));
  for (std::int64_t row = 0; row < t.rows; row += most_rows) {
    const std::int64_t rows = std::min<std::int64_t>(most_rows, t.rows - row);
    widen(t, row, rows, wide.get());
    for (std::int64_t panel = 0; panel < t.panels; ++panel) {
      blocks[static_cast<std::size_t>(rows - 1)](t, wide.get(), row, panel);
    }
  }
}

QTOOL_AVX2 void finish(const KernelResult& f) { detail::finish_plainly(f); }

QTOOL_AVX2 void add_block(const KernelBlock& b) { detail::add_block_plainly(b); }

#else

constexpr void (*multiply)(const KernelTile&) = nullptr;
constexpr void (*finish)(const KernelResult&) = nullptr;
constexpr void (*add_block)(const KernelBlock&) = nullptr;

#endif

}  // namespace

constinit const IntegerKernel avx2{"avx2",    "AVX2", [](const Processor& p) { return p.avx2; }, 1, 4, multiply, finish,
                                   add_block, false};

}  // namespace qtool::kernel

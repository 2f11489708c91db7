// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI: vpdpbusd adds four products of unsigned and signed bytes to a 32-bit sum, without saturation.
#include "backends/cpu/kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#endif

namespace qtool::kernel {
namespace {

#if defined(__x86_64__)

#define QTOOL_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

constexpr int most_rows = 6, most_panels = 4;  // 24 vectors of sums, 4 of the right operand, 1 of the left

/// Eight columns from each place, four of the depth.
QTOOL_VNNI inline __m512i two_halves(const std::int8_t* left, const std::int8_t* right) {
  typedef long long Half __attribute__((vector_size(32)));
  Half low, high;
  std::memcpy(&low, left, sizeof low);
  std::memcpy(&high, right, sizeof high);
  return reinterpret_cast<__m512i>(__builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7));
}

template <int Rows, int Panels, bool Gathers>
QTOOL_VNNI void block(const KernelTile& t, std::int64_t row, std::int64_t panel) {
  __m512i sum[Rows][Panels];
  std::int32_t* const to = t.sums + row * t.sums_stride + panel * panel_columns;
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      sum[r][p] = t.add ? _mm512_loadu_si512(to + r * t.sums_stride + p * panel_columns) : _mm512_setzero_si512();
    }
  }
  const std::uint8_t* a = t.a + row * t.a_stride;
  const std::int8_t* b = t.b + panel * t.b_stride;
  const std::int64_t* const columns = Gathers ? t.columns_of_b + 2 * panel : nullptr;
  for (std::int64_t l = 0; l < t.depth; l += 4, a += 4, b += 4 * panel_columns) {
    __m512i right[Panels];
    if constexpr (Gathers) b = t.b + t.rows_of_b[l / 4];
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      right[p] =
          Gathers ? two_halves(b + columns[2 * p], b + columns[2 * p + 1]) : _mm512_loadu_si512(b + p * t.b_stride);
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      std::int32_t four = 0;
      std::memcpy(&four, a + r * t.a_stride, sizeof four);
      const __m512i left = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], left, right[p]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) _mm512_storeu_si512(to + r * t.sums_stride + p * panel_columns, sum[r][p]);
  }
}

using Block = void (*)(const KernelTile&, std::int64_t row, std::int64_t panel);

template <bool Gathers, int... I>
constexpr std::array<Block, sizeof...(I)> all_blocks(std::integer_sequence<int, I...>) {
  return {block<I / most_panels + 1, I % most_panels + 1, Gathers>...};
}

using Numbers = std::make_integer_sequence<int, most_rows * most_panels>;
constexpr std::array blocks{all_blocks<false>(Numbers{}), all_blocks<true>(Numbers{})};

void multiply(const KernelTile& t) {
  for (std::int64_t panel = 0; panel < t.panels; panel += most_panels) {
    const std::int64_t panels = std::min<std::int64_t>(most_panels, t.panels - panel);
    for (std::int64_t row = 0; row < t.rows; row += most_rows) {
      const std::int64_t rows = std::min<std::int64_t>(most_rows, t.rows - row);
      blocks[t.rows_of_b == nullptr ? 0 : 1][static_cast<std::size_t>((rows - 1) * most_panels + panels - 1)](t, row,
                                                                                                              panel);
    }
  }
}

QTOOL_VNNI void finish(const KernelResult& f) { detail::finish_plainly(f); }

QTOOL_VNNI void add_block(const KernelBlock& b) { detail::add_block_plainly(b); }

#else

constexpr void (*multiply)(const KernelTile&) = nullptr;
constexpr void (*finish)(const KernelResult&) = nullptr;
constexpr void (*add_block)(const KernelBlock&) = nullptr;

#endif

}  // namespace

constinit const IntegerKernel avx512_vnni{
    "avx512_vnni", "AVX-512 VNNI", [](const Processor& p) { return p.avx512_vnni; }, 1, 4, multiply, finish, add_block,
    true};

}  // namespace qtool::kernel

// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/conv_tile.h"

#include <array>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

#if defined(__x86_64__)

// Accumulators that the registers hold beside what is being multiplied.
constexpr int registers_avx512 = 24, registers_avx2 = 12;

constexpr int vectors_of(int registers, int rows) {
  return registers / rows < widest_conv_tile ? registers / rows : widest_conv_tile;
}

template <int Rows, int Count>
__attribute__((target("avx512f"))) void tile_avx512(const ConvTile& t) {
  __m512 sum[Rows][Count];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) sum[r][i] = _mm512_set1_ps(t.bias == nullptr ? 0.0F : t.bias[r]);
  }
  const std::int64_t row = t.kernel_row;
  const float* weight = t.kernel;
  const float* x[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) x[i] = t.x + t.x_at[i];
  for (const std::int32_t *offset = t.offsets, *const end = offset + t.depth; offset != end; ++offset, ++weight) {
    __m512 value[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) value[i] = _mm512_loadu_ps(x[i] + *offset);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512 w = _mm512_set1_ps(weight[r * row]);
#pragma GCC unroll 8
      for (int i = 0; i < Count; ++i) sum[r][i] = _mm512_fmadd_ps(value[i], w, sum[r][i]);
    }
  }
  float* const y = t.y;
  const std::int64_t y_row = t.y_row;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) _mm512_storeu_ps(y + r * y_row + t.y_at[i], sum[r][i]);
  }
}

template <int Rows, int Count>
__attribute__((target("avx2,fma"))) void tile_avx2(const ConvTile& t) {
  __m256 sum[Rows][Count];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) sum[r][i] = _mm256_set1_ps(t.bias == nullptr ? 0.0F : t.bias[r]);
  }
  const std::int64_t row = t.kernel_row;
  const float* weight = t.kernel;
  const float* x[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) x[i] = t.x + t.x_at[i];
  for (const std::int32_t *offset = t.offsets, *const end = offset + t.depth; offset != end; ++offset, ++weight) {
    __m256 value[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) value[i] = _mm256_loadu_ps(x[i] + *offset);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m256 w = _mm256_set1_ps(weight[r * row]);
#pragma GCC unroll 8
      for (int i = 0; i < Count; ++i) sum[r][i] = _mm256_fmadd_ps(value[i], w, sum[r][i]);
    }
  }
  float* const y = t.y;
  const std::int64_t y_row = t.y_row;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) _mm256_storeu_ps(y + r * y_row + t.y_at[i], sum[r][i]);
  }
}

using Tile = void (*)(const ConvTile&);
using Row = std::array<Tile, widest_conv_tile>;

template <int Rows, int... I>
constexpr Row row_avx512(std::integer_sequence<int, I...>) {
  constexpr int most = vectors_of(registers_avx512, Rows);
  return {(I < most ? tile_avx512<Rows, (I < most ? I + 1 : 1)> : nullptr)...};
}
template <int Rows, int... I>
constexpr Row row_avx2(std::integer_sequence<int, I...>) {
  constexpr int most = vectors_of(registers_avx2, Rows);
  return {(I < most ? tile_avx2<Rows, (I < most ? I + 1 : 1)> : nullptr)...};
}

using Every = std::make_integer_sequence<int, widest_conv_tile>;

template <int... R>
constexpr std::array<Row, sizeof...(R)> table_avx512(std::integer_sequence<int, R...>) {
  return {row_avx512<R + 1>(Every{})...};
}
template <int... R>
constexpr std::array<Row, sizeof...(R)> table_avx2(std::integer_sequence<int, R...>) {
  return {row_avx2<R + 1>(Every{})...};
}

constexpr auto tiles_avx512 = table_avx512(std::make_integer_sequence<int, 8>{});
constexpr auto tiles_avx2 = table_avx2(std::make_integer_sequence<int, 4>{});

void compute_avx512(const ConvTile& t, int rows, int vectors) {
  tiles_avx512[static_cast<std::size_t>(rows - 1)][static_cast<std::size_t>(vectors - 1)](t);
}
void compute_avx2(const ConvTile& t, int rows, int vectors) {
  tiles_avx2[static_cast<std::size_t>(rows - 1)][static_cast<std::size_t>(vectors - 1)](t);
}

constexpr ConvTiles describe(int lanes, int registers, int rows, void (*compute)(const ConvTile&, int, int)) {
  ConvTiles tiles;
  tiles.lanes = lanes;
  tiles.rows = rows;
  for (int r = 1; r <= rows; ++r) tiles.most_vectors[r - 1] = vectors_of(registers, r);
  tiles.compute = compute;
  return tiles;
}

constexpr ConvTiles avx512 = describe(16, registers_avx512, 8, compute_avx512);
constexpr ConvTiles avx2 = describe(8, registers_avx2, 4, compute_avx2);

#endif

constexpr ConvTiles none;

}  // namespace

const ConvTiles& conv_tiles(Vectors vectors) {
#if defined(__x86_64__)
  if (vectors == Vectors::avx512) return avx512;
  if (vectors == Vectors::avx2) return avx2;
#else
  static_cast<void>(vectors);
#endif
  return none;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Products with weights in blocks. The weights are the left operand of the kernels, as unsigned codes in rows, which
// takes no more than widening their bits; the activations, signed, are packed into panels once. Sums of a block are
// scaled and added to a tile of floats before the next block is multiplied: one order of sums on every kernel.
#include <algorithm>
#include <cstring>
#include <memory>

#include "backends/cpu/kernel.h"
#include "formats/base/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

// A tile of sums and one of floats lie in the first-level cache. Rows: whole blocks of every kernel.
constexpr std::int64_t tile_rows = 48, tile_panels = 4, tile_columns = tile_panels * panel_columns;
constexpr std::int64_t wanted_tasks = 4;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }
constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T>
std::unique_ptr<T[]> memory(std::int64_t n) {
  return std::make_unique_for_overwrite<T[]>(at(n));
}

/// Codes of Bits bits, low bits first, one byte each; n is a multiple of 16.
template <int Bits>
void widen(const std::byte* from, std::int64_t n, std::uint8_t* to) {
  std::int64_t i = 0;
#if defined(__x86_64__)
  if constexpr (Bits < 8) {
    const __m128i mask = _mm_set1_epi8((1 << Bits) - 1);
    const auto next = [&](__m128i v) { return _mm_and_si128(_mm_srli_epi16(v, Bits), mask); };
    auto* out = reinterpret_cast<__m128i*>(to);
    if constexpr (Bits == 4) {
      for (; i + 32 <= n; i += 32, from += 16, out += 2) {
        const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        const __m128i even = _mm_and_si128(v, mask), odd = next(v);
        _mm_storeu_si128(out, _mm_unpacklo_epi8(even, odd));
        _mm_storeu_si128(out + 1, _mm_unpackhi_epi8(even, odd));
      }
    } else {
      for (; i + 32 <= n; i += 32, from += 8, out += 2) {
        const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        const __m128i shifted = _mm_srli_epi16(v, 4);
        const __m128i first = _mm_unpacklo_epi8(_mm_and_si128(v, mask), next(v));
        const __m128i second = _mm_unpacklo_epi8(_mm_and_si128(shifted, mask), next(shifted));
        _mm_storeu_si128(out, _mm_unpacklo_epi16(first, second));
        _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(first, second));
      }
    }
  }
#endif
  constexpr std::int64_t per_byte = 8 / Bits;
  for (; i < n; i += per_byte, ++from) {
    for (std::int64_t j = 0; j < per_byte; ++j) {
      to[i + j] = static_cast<std::uint8_t>((static_cast<unsigned>(*from) >> (j * Bits)) & ((1U << Bits) - 1U));
    }
  }
}

/// The activations: panels of 16 rows of A, every block padded to the kernel's depth; per panel and block, 16 scales
/// and 16 sums of codes.
struct Panels {
  std::unique_ptr<std::int8_t[]> codes;
  std::unique_ptr<float[]> scales, sums;  // [blocks, panels * 16]
  std::int64_t columns = 0;               // panels * 16
  std::int64_t depth = 0, stride = 0;     // of a block and of all blocks: codes of one row
};

Panels pack_panels(const IntegerKernel& kernel, Threads& threads, const BlockProduct& p) {
  Panels out;
  const std::int64_t blocks = p.blocks();
  out.columns = round_up(p.m, panel_columns);
  out.depth = round_up(round_up(std::min(p.block, p.k), 16), kernel.depth_step);
  out.stride = out.depth * blocks;
  out.codes = memory<std::int8_t>(out.columns * out.stride);
  out.scales = memory<float>(blocks * out.columns);
  out.sums = memory<float>(blocks * out.columns);
  threads.for_each(out.columns / panel_columns, std::max<std::int64_t>(1, (1 << 12) / p.k),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t panel = begin; panel < end; ++panel) {
                       std::int8_t* to = out.codes.get() + panel * panel_columns * out.stride;
                       std::memset(to, 0, at(panel_columns * out.stride));
                       for (std::int64_t j = 0; j < panel_columns; ++j) {
                         const std::int64_t row = panel * panel_columns + j;
                         for (std::int64_t q = 0; q < blocks; ++q) {
                           const std::int64_t first = q * p.block;
                           const std::int64_t n = row < p.m ? std::min(p.block, p.k - first) : 0;
                           const std::int8_t* from = p.a + (row < p.m ? row * p.k + first : 0);
                           std::int8_t* four = to + q * out.depth * panel_columns + 4 * j;
                           std::int32_t sum = 0;
                           std::int64_t l = 0;
                           for (; l + 4 <= n; l += 4) std::memcpy(four + l * panel_columns, from + l, 4);
                           for (; l < n; ++l) four[l / 4 * 4 * panel_columns + l % 4] = from[l];
                           for (l = 0; l < n; ++l) sum += from[l];
                           out.sums[at(q * out.columns + row)] = static_cast<float>(sum);
                           out.scales[at(q * out.columns + row)] = row < p.m ? p.a_scales[row * blocks + q] : 0.0F;
                         }
                       }
                     }
                   });
  return out;
}

/// Rows [first, first + rows) of the weight as bytes, every block padded to `depth`; rows up to tile_rows are zeros.
void widen_rows(const BlockProduct& p, std::int64_t first, std::int64_t rows, std::int64_t depth, std::uint8_t* to) {
  const std::int64_t blocks = p.blocks(), bytes = p.block * p.bits / 8;
  const std::int64_t n = std::min(p.block, depth);  // what lies beyond k meets zeros
  for (std::int64_t r = 0; r < tile_rows; ++r) {
    for (std::int64_t q = 0; q < blocks; ++q, to += depth) {
      if (r >= rows) {
        std::memset(to, 0, at(depth));
        continue;
      }
      const std::byte* from = p.b + ((first + r) * blocks + q) * bytes;
      switch (p.bits) {
        case 2: widen<2>(from, n, to); break;
        case 4: widen<4>(from, n, to); break;
        default: std::memcpy(to, from, at(n));
      }
      std::memset(to + n, 0, at(depth - n));
    }
  }
}

}  // namespace

void multiply_blocks(const IntegerKernel& kernel, Threads& threads, const BlockProduct& p) {
  if (p.m <= 0 || p.n <= 0) return;
  const Panels panels = pack_panels(kernel, threads, p);
  const std::int64_t blocks = p.blocks(), down = round_up(p.n, tile_rows) / tile_rows;
  const std::int64_t tiles = round_up(panels.columns, tile_columns) / tile_columns;
  // Rows are widened once per task: one for all columns where there are enough.
  const std::int64_t across = std::clamp<std::int64_t>(wanted_tasks / down, 1, tiles);
  threads.for_each(down * across, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto codes = memory<std::uint8_t>(tile_rows * panels.stride);
    const auto sums = memory<std::int32_t>(tile_rows * tile_columns);
    const auto result = memory<float>(tile_rows * tile_columns);
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t row = task / across * tile_rows, rows = std::min(tile_rows, p.n - row);
      widen_rows(p, row, rows, panels.depth, codes.get());
      KernelTile t;
      t.a_stride = panels.stride;
      t.b_stride = panels.stride * panel_columns;
      t.depth = panels.depth;
      t.rows = round_up(rows, kernel.row_step);
      t.sums = sums.get();
      KernelBlock f;
      f.sums = sums.get();
      f.to = result.get();
      f.rows = rows;
      f.row_step = blocks;
      for (std::int64_t tile = task % across; tile < tiles; tile += across) {
        const std::int64_t column = tile * tile_columns;
        f.columns = std::min(tile_columns, panels.columns - column);
        t.panels = f.columns / panel_columns;
        t.sums_stride = f.stride = f.columns;
        std::fill_n(result.get(), rows * f.stride, 0.0F);
        for (std::int64_t q = 0; q < blocks; ++q) {
          t.a = codes.get() + q * panels.depth;
          t.b = panels.codes.get() + column * panels.stride + q * panels.depth * panel_columns;
          kernel.multiply(t);
          f.row_scales = p.b_scales + row * blocks + q;
          f.row_zeros = p.b_zeros + row * blocks + q;
          f.column_scales = panels.scales.get() + q * panels.columns + column;
          f.column_sums = panels.sums.get() + q * panels.columns + column;
          kernel.add_block(f);
        }
        for (std::int64_t i = 0; i < std::min(f.columns, p.m - column); ++i) {
          float* to = p.c + (column + i) * p.c_stride + row;
          for (std::int64_t j = 0; j < rows; ++j) to[j] = result[at(j * f.stride + i)];
        }
      }
    }
  });
}

}  // namespace qtool

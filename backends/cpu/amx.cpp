// SPDX-License-Identifier: Apache-2.0
// AMX: tiles of 16 rows of 64 bytes. tdpbusd multiplies 16 rows of 64 unsigned codes with 64 x 16 signed ones, which
// lie in fours as in a panel, and adds to 16 x 16 sums, without saturation.
#include "backends/cpu/kernel.h"
#include "formats/base/tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#endif

namespace qtool::kernel {
namespace {

constexpr std::int64_t tile_rows = 16, tile_depth = 64;

#if defined(__x86_64__)

#define QTOOL_AMX __attribute__((target("amx-tile,amx-int8")))

/// Tiles 0 to 3 hold sums, 4 and 5 rows of the left operand, 6 and 7 panels of the right one.
template <bool TwoRows, bool TwoPanels>
QTOOL_AMX void block(const KernelTile& t, std::int64_t row, std::int64_t panel) {
  std::int32_t* const to = t.sums + row * t.sums_stride + panel * panel_columns;
  std::int32_t* const below = to + tile_rows * t.sums_stride;
  const std::int64_t step = t.sums_stride * 4;  // bytes
  if (t.add) {
    _tile_loadd(0, to, step);
    if constexpr (TwoPanels) _tile_loadd(1, to + panel_columns, step);
    if constexpr (TwoRows) _tile_loadd(2, below, step);
    if constexpr (TwoRows && TwoPanels) _tile_loadd(3, below + panel_columns, step);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const std::uint8_t* a = t.a + row * t.a_stride;
  const std::int8_t* b = t.b + panel * t.b_stride;
  for (std::int64_t l = 0; l < t.depth; l += tile_depth, a += tile_depth, b += tile_depth * panel_columns) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, t.a_stride);
    _tile_dpbusd(0, 4, 6);
    if constexpr (TwoRows) {
      _tile_loadd(5, a + tile_rows * t.a_stride, t.a_stride);
      _tile_dpbusd(2, 5, 6);
    }
    if constexpr (TwoPanels) {
      _tile_loadd(7, b + t.b_stride, 64);
      _tile_dpbusd(1, 4, 7);
      if constexpr (TwoRows) _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, to, step);
  if constexpr (TwoPanels) _tile_stored(1, to + panel_columns, step);
  if constexpr (TwoRows) _tile_stored(2, below, step);
  if constexpr (TwoRows && TwoPanels) _tile_stored(3, below + panel_columns, step);
}

QTOOL_AMX void multiply(const KernelTile& t) {
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");  // g++ 12 believes that nobody reads what _tile_loadconfig reads
  _tile_loadconfig(&config);
  for (std::int64_t row = 0; row < t.rows; row += 2 * tile_rows) {
    const bool two_rows = row + tile_rows < t.rows;
    for (std::int64_t panel = 0; panel < t.panels; panel += 2) {
      const bool two_panels = panel + 1 < t.panels;
      (two_rows ? (two_panels ? block<true, true> : block<true, false>)
                : (two_panels ? block<false, true> : block<false, false>))(t, row, panel);
    }
  }
  _tile_release();
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void finish(const KernelResult& f) {
  detail::finish_plainly(f);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void add_block(const KernelBlock& b) {
  detail::add_block_plainly(b);
}

#else

constexpr void (*multiply)(const KernelTile&) = nullptr;
constexpr void (*finish)(const KernelResult&) = nullptr;
constexpr void (*add_block)(const KernelBlock&) = nullptr;

#endif

}  // namespace

constinit const IntegerKernel amx{"amx",     "AMX int8", [](const Processor& p) { return p.amx_int8; },
                                  tile_rows, tile_depth, multiply,
                                  finish,    add_block,  false};

}  // namespace qtool::kernel

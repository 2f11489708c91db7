// SPDX-License-Identifier: Apache-2.0
// The kernel that needs nothing, and that the others are compared with.
#include <algorithm>

#include "backends/cpu/kernel.h"

namespace qtool::kernel {
namespace {

void multiply(const KernelTile& t) {
  for (std::int64_t r = 0; r < t.rows; ++r) {
    for (std::int64_t p = 0; p < t.panels; ++p) {
      std::int32_t* to = t.sums + r * t.sums_stride + p * panel_columns;
      std::uint32_t sums[panel_columns] = {};
      if (t.add) std::copy(to, to + panel_columns, sums);
      const std::uint8_t* a = t.a + r * t.a_stride;
      const std::int8_t* b = t.b + p * t.b_stride;
      for (std::int64_t l = 0; l < t.depth; l += 4, b += 4 * panel_columns) {
        for (std::int64_t j = 0; j < panel_columns; ++j) {
          std::int32_t four = 0;
          for (std::int64_t i = 0; i < 4; ++i) four += a[l + i] * b[4 * j + i];
          sums[j] += static_cast<std::uint32_t>(four);
        }
      }
      std::copy(sums, sums + panel_columns, reinterpret_cast<std::uint32_t*>(to));
    }
  }
}

void finish(const KernelResult& f) { detail::finish_plainly(f); }

void add_block(const KernelBlock& b) { detail::add_block_plainly(b); }

}  // namespace

constinit const IntegerKernel reference{
    "reference", "", [](const Processor&) { return true; }, 1, 4, multiply, finish, add_block, false};

}  // namespace qtool::kernel

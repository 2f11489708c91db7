// SPDX-License-Identifier: Apache-2.0
// Runs: a tensor cut into consecutive elements by who shares a scale. Internal to formats/ir.
#pragma once

#include <algorithm>
#include <cstdint>

#include "formats/base/widest.h"
#include "formats/ir/quant.h"

namespace qtool::runs {

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Consecutive elements [begin, begin + length) whose scales are scale, scale + step, ... ; step is 0 or 1.
struct Run {
  std::size_t begin, length, scale;
  bool each;  // step 1
};

/// Cuts a tensor of shape `x` into runs, in memory order.
template <class F>
QTOOL_INLINE inline void for_each_run(const Grain& grain, const Shape& x, F f) {
  const std::int64_t total = element_count(x);
  if (total == 0) return;
  if (grain.kind == Grain::Kind::tensor) {
    f(Run{0, index(total), 0, false});
    return;
  }
  if (grain.kind == Grain::Kind::blocks) {
    const std::int64_t rows = x[x.size() - 2], columns = x.back(), outer = total / (rows * columns);
    const std::int64_t across = ceil_div(columns, grain.group2), down = ceil_div(rows, grain.group);
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < across; ++c) {
          const std::int64_t from = c * grain.group2, to = std::min(columns, from + grain.group2);
          f(Run{index((o * rows + r) * columns + from), index(to - from),
                index((o * down + r / grain.group) * across + c), false});
        }
      }
    }
    return;
  }
  const bool groups = grain.kind == Grain::Kind::groups;
  const std::int64_t n = x[index(grain.axis)];
  std::int64_t outer = 1, inner = 1;
  for (int a = 0; a < grain.axis; ++a) outer *= x[index(a)];
  for (std::size_t a = index(grain.axis) + 1; a < x.size(); ++a) inner *= x[a];
  if (!groups) {
    for (std::int64_t o = 0; o < outer; ++o) {
      if (inner == 1) {
        f(Run{index(o * n), index(n), 0, true});
        continue;
      }
      for (std::int64_t i = 0; i < n; ++i) f(Run{index((o * n + i) * inner), index(inner), index(i), false});
    }
    return;
  }
  const std::int64_t per_row = ceil_div(n, grain.group);
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t j = 0; j < per_row; ++j) {
      const std::int64_t from = j * grain.group, to = std::min(n, from + grain.group);
      if (inner == 1) {
        f(Run{index(o * n + from), index(to - from), index(o * per_row + j), false});
        continue;
      }
      for (std::int64_t i = from; i < to; ++i) {
        f(Run{index((o * n + i) * inner), index(inner), index((o * per_row + j) * inner), true});
      }
    }
  }
}

}  // namespace qtool::runs

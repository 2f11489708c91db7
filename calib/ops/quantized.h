// SPDX-License-Identifier: Apache-2.0
// What the operators on integer codes share: ranges of codes, who has which scale, exact integer products, and the way
// back from 32-bit sums to codes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "calib/op.h"
#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// Lowest and highest code of an integer type of 2 to 16 bits.
struct CodeRange {
  float low, high;
};
CodeRange code_range(DType);

/// The value of a one-element tensor of any numeric type; Error(Code::input) naming `what` otherwise.
float scalar_of(const Tensor& t, const char* what);

/// A tensor seen as [outer, extent, inner] with scales along the middle axis.
struct ScaleLayout {
  std::int64_t outer = 1, extent = 1, inner = 0;
  std::int64_t block = 0, blocks = 0;  // blocked: `block` indices share a scale, scales are [outer, blocks, inner]
  bool per_axis = false;               // scales are [extent]; neither: one scale
};

/// Error(Code::input) when the scales fit neither one per tensor, nor one per index of `axis`, nor blocks of it.
ScaleLayout scale_layout(const Shape& x, const Tensor& scale, std::int64_t axis, std::int64_t block);

/// Calls f(first element, count, scale index, scale step) for runs of neighbours: element i of a run has scale
/// `index + i * step`, step 0 or 1. In parallel.
template <class F>
void for_each_run(Threads& threads, const ScaleLayout& l, F&& f) {
  constexpr std::int64_t piece = 1 << 15;
  if (!l.per_axis && l.block == 0) {
    threads.for_each(l.outer * l.extent * l.inner, piece, [&](std::int64_t begin, std::int64_t end) {
      f(begin, end - begin, std::int64_t{0}, std::int64_t{0});
    });
    return;
  }
  const std::int64_t grain = std::max<std::int64_t>(1, piece / std::max<std::int64_t>(1, l.inner));
  threads.for_each(l.outer * l.extent, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t o = row / l.extent, e = row % l.extent;
      if (l.per_axis) {
        f(row * l.inner, l.inner, e, std::int64_t{0});
      } else {
        f(row * l.inner, l.inner, (o * l.blocks + e / l.block) * l.inner, std::int64_t{l.inner > 1});
      }
    }
  });
}

/// DynamicQuantizeLinear of a float32 tensor: u8 codes whose range contains zero.
struct DynamicQuantization {
  Tensor codes;
  float scale = 1;
  std::uint8_t zero_point = 0;
};
DynamicQuantization quantize_dynamic(Threads& threads, const Tensor& x);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// A constant weight of the file whose codes stand for numbers that are not evenly spaced: float4 and float8 codes
// behind a DequantizeLinear, and the code books of MatMulBnb4. Decoded by tables of their own.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "backends/verify/scene.h"

namespace qtool::verify {

/// The scales of a DequantizeLinear as the runtime has them: real numbers, powers of two, or float8 codes behind a
/// DequantizeLinear with one scale of its own. Empty when they are no constants, or none of these.
std::optional<std::vector<float>> scales_of(const Scene&, const NodeView& dequantizer);

struct Book {
  std::vector<std::int64_t> dims;  // logical: [N, K] of MatMulBnb4, that of the codes otherwise
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;   // one per element
  std::vector<float> values;  // of each code; NaN where a code is none

  /// Empty when shapes do not fit, or types are none of these.
  static std::optional<Book> minifloats(const TensorView& codes, std::span<const float> scales, std::int64_t axis,
                                        std::int64_t block);
  static std::optional<Book> bnb4(const Scene&, const NodeView&);

  /// The index, in the order of `codes`, of the first element whose code is not the nearest to its number, with how
  /// many there are; `x`: one number per element.
  struct Wrong {
    std::int64_t count = 0, first = 0;
    double nearest = 0;  // value of the code that should be there
  };
  Wrong compare(std::span<const float> x) const;
};

}  // namespace qtool::verify

// SPDX-License-Identifier: Apache-2.0
// Steps: what each scale of a spec means for a code, both levels of scales multiplied out. Internal to formats/ir.
#pragma once

#include <vector>

#include "formats/ir/quant.h"
#include "formats/number/nearest.h"

namespace qtool {

/// x^ = scale * (decode(code) - zero) + minimum, with code - zero in [low, high]. One array per part, so that loops
/// over scales run in vectors.
struct Steps {
  std::vector<float> scale, zero, minimum, low, high;

  struct Part {
    const float *scale, *zero, *minimum, *low, *high;
  };
  Part from(std::size_t i) const { return {&scale[i], &zero[i], &minimum[i], &low[i], &high[i]}; }
};

/// Error(Code::internal) unless the spec has the scales of a value of shape `x`.
void check_scales(const QuantSpec&, const Shape& x);
/// Of the scales [first, first + count), which the spec has.
Steps steps_of(const QuantSpec&, std::size_t first, std::size_t count);
/// The spec itself, without parts that are decided otherwise.
QuantSpec without_ranges(QuantSpec);
/// The lowest code that the spec uses.
float lowest_code(const QuantSpec&);

}  // namespace qtool

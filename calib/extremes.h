// SPDX-License-Identifier: Apache-2.0
// The smallest and the largest of many numbers, as fast as memory gives them.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace qtool {

/// The range of the finite ones of some numbers, and how many were not.
struct Extremes {
  float low = std::numeric_limits<float>::infinity(), high = -std::numeric_limits<float>::infinity();
  std::int64_t bad = 0;  // infinite or NaN
  void add(const Extremes&);
};
Extremes extremes_of(std::span<const float>);

}  // namespace qtool

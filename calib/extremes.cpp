// SPDX-License-Identifier: Apache-2.0
#include "calib/extremes.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/base/widest.h"

namespace qtool {

void Extremes::add(const Extremes& other) {
  low = std::min(low, other.low);
  high = std::max(high, other.high);
  bad += other.bad;
}

Extremes extremes_of(std::span<const float> x) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr std::size_t lanes = 64;
  Extremes all;
  with_widest_vectors([&]() QTOOL_INLINE {
    std::array<float, lanes> low, high;
    std::array<std::int32_t, lanes> bad{};
    low.fill(inf);
    high.fill(-inf);
    std::size_t i = 0;
    for (; i + lanes <= x.size(); i += lanes) {
      for (std::size_t k = 0; k < lanes; ++k) {
        const float v = x[i + k];
        const bool finite = std::fabs(v) < inf;
        bad[k] += finite ? 0 : 1;
        const float down = finite ? v : inf, up = finite ? v : -inf;
        low[k] = down < low[k] ? down : low[k];
        high[k] = up > high[k] ? up : high[k];
      }
    }
    for (std::size_t k = 0; i < x.size(); ++i, ++k) {
      const bool finite = std::fabs(x[i]) < inf;
      bad[k] += finite ? 0 : 1;
      if (finite && x[i] < low[k]) low[k] = x[i];
      if (finite && x[i] > high[k]) high[k] = x[i];
    }
    for (std::size_t k = 0; k < lanes; ++k) all.add({low[k], high[k], bad[k]});
  });
  all.low += 0.0F;  // which zero came first depends on the lane: always the positive one
  all.high += 0.0F;
  return all;
}

}  // namespace qtool

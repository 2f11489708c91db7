// SPDX-License-Identifier: Apache-2.0
// Ranges and errors per scale: what scales are chosen from.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/parts.h"
#include "formats/ir/runs.h"

namespace qtool {

using runs::for_each_run;
using runs::index;
using runs::Run;

namespace {

/// Widens [low, high] to hold the values; false when one of them is not finite. One range per lane, so that the loop
/// runs in vectors.
QTOOL_INLINE inline bool extend(const float* v, std::size_t n, float& low, float& high) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr std::size_t lanes = 16;
  float lows[lanes], highs[lanes];
  std::int32_t bad[lanes] = {};
  std::fill(lows, lows + lanes, low);
  std::fill(highs, highs + lanes, high);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::size_t k = 0; k < lanes; ++k) {
      const float x = v[i + k];
      bad[k] |= std::fabs(x) < inf ? 0 : 1;
      lows[k] = x < lows[k] ? x : lows[k];
      highs[k] = x > highs[k] ? x : highs[k];
    }
  }
  for (std::size_t k = 0; i < n; ++i, ++k) {
    bad[k] |= std::fabs(v[i]) < inf ? 0 : 1;
    lows[k] = v[i] < lows[k] ? v[i] : lows[k];
    highs[k] = v[i] > highs[k] ? v[i] : highs[k];
  }
  for (std::size_t half = lanes / 2; half > 0; half /= 2) {
    for (std::size_t k = 0; k < half; ++k) {
      bad[k] |= bad[k + half];
      lows[k] = lows[k + half] < lows[k] ? lows[k + half] : lows[k];
      highs[k] = highs[k + half] > highs[k] ? highs[k + half] : highs[k];
    }
  }
  low = lows[0];
  high = highs[0];
  return bad[0] == 0;
}

/// The same of one range per value.
QTOOL_INLINE inline bool extend_each(const float* v, std::size_t n, float* low, float* high) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  std::int32_t bad = 0;
  for (std::size_t i = 0; i < n; ++i) {
    bad |= std::fabs(v[i]) < inf ? 0 : 1;
    low[i] = v[i] < low[i] ? v[i] : low[i];
    high[i] = v[i] > high[i] ? v[i] : high[i];
  }
  return bad == 0;
}

}  // namespace

void ranges_of(const Tensor& x, const Grain& grain, std::vector<float>& low, std::vector<float>& high) {
  const std::size_t n = index(element_count(scale_shape(grain, x.shape())));
  constexpr float inf = std::numeric_limits<float>::infinity();
  low.assign(n, inf);
  high.assign(n, -inf);
  FloatParts floats(x);
  Parts(grain, x.shape()).for_each([&](const Part& part) {
    const auto values = floats.at(part.begin, part.count);
    bool finite = true;
    with_widest_vectors([&]() QTOOL_INLINE {
      for_each_run(grain, part.shape, [&](const Run& r) QTOOL_INLINE {
        const float* v = values.data() + r.begin;
        float* lo = low.data() + part.scale + r.scale;
        float* hi = high.data() + part.scale + r.scale;
        const bool good = r.each ? extend_each(v, r.length, lo, hi) : extend(v, r.length, *lo, *hi);
        finite = finite && good;
      });
    });
    if (finite) return;
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    const auto at = part.begin + static_cast<std::size_t>(bad - values.begin());
    throw Error(Code::input, "element " + std::to_string(at) + " is " + (std::isnan(*bad) ? "NaN" : "infinite") +
                                 ", so that no range can be taken");
  });
  for (std::size_t i = 0; i < n; ++i) {
    if (low[i] > high[i]) low[i] = high[i] = 0;
  }
}

std::vector<double> squared_errors(const Tensor& x, const Tensor& y, const Grain& grain, const Tensor& weight) {
  QTOOL_ENSURE(x.shape() == y.shape(), "tensors that are compared have one shape");
  const auto a = x.read<float>(), b = y.read<float>();
  const auto w = weight.empty() ? std::span<const float>{} : weight.read<float>();
  QTOOL_ENSURE(w.empty() || w.size() == a.size(), "every element has its weight");
  std::vector<double> sums(index(element_count(scale_shape(grain, x.shape()))));
  for_each_run(grain, x.shape(), [&](const Run& r) {
    for (std::size_t i = 0; i < r.length; ++i) {
      const std::size_t k = r.begin + i;
      const double d = static_cast<double>(a[k]) - b[k];
      sums[r.scale + (r.each ? i : 0)] += w.empty() ? d * d : d * d * static_cast<double>(w[k]);
    }
  });
  return sums;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Ranges and errors per scale: what scales are chosen from.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/runs.h"

namespace qtool {

using runs::for_each_run;
using runs::index;
using runs::Run;

namespace {

/// Widens [low, high] to hold the values; false when one of them is not finite. One range per lane, so that the loop
/// runs in vectors.
bool extend(const float* v, std::size_t n, float& low, float& high) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr std::size_t lanes = 32;
  float lows[lanes], highs[lanes];
  std::int32_t bad[lanes] = {};
  std::fill(lows, lows + lanes, low);
  std::fill(highs, highs + lanes, high);
  std::size_t i = 0;
  with_widest_vectors([&]() QTOOL_INLINE {
    for (; i + lanes <= n; i += lanes) {
      for (std::size_t k = 0; k < lanes; ++k) {
        const float x = v[i + k];
        bad[k] += std::fabs(x) < inf ? 0 : 1;
        lows[k] = x < lows[k] ? x : lows[k];
        highs[k] = x > highs[k] ? x : highs[k];
      }
    }
  });
  for (std::size_t k = 0; i < n; ++i, ++k) {
    bad[k] += std::fabs(v[i]) < inf ? 0 : 1;
    lows[k] = std::min(v[i], lows[k]);
    highs[k] = std::max(v[i], highs[k]);
  }
  low = *std::min_element(lows, lows + lanes);
  high = *std::max_element(highs, highs + lanes);
  return std::all_of(bad, bad + lanes, [](std::int32_t b) { return b == 0; });
}

}  // namespace

void ranges_of(const Tensor& x, const Grain& grain, std::vector<float>& low, std::vector<float>& high) {
  const auto values = x.read<float>();
  const std::size_t n = index(element_count(scale_shape(grain, x.shape())));
  constexpr float inf = std::numeric_limits<float>::infinity();
  low.assign(n, inf);
  high.assign(n, -inf);
  bool finite = true;
  for_each_run(grain, x.shape(), [&](const Run& r) {
    const float* v = values.data() + r.begin;
    float* lo = low.data() + r.scale;
    float* hi = high.data() + r.scale;
    bool good = true;
    if (r.each) {
      for (std::size_t i = 0; i < r.length; ++i) {
        good &= std::fabs(v[i]) < inf;
        lo[i] = v[i] < lo[i] ? v[i] : lo[i];
        hi[i] = v[i] > hi[i] ? v[i] : hi[i];
      }
    } else {
      float l = *lo, h = *hi;
      good = extend(v, r.length, l, h);
      *lo = l;
      *hi = h;
    }
    finite = finite && good;
  });
  if (!finite) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    throw Error(Code::input, "element " + std::to_string(bad - values.begin()) + " is " +
                                 (std::isnan(*bad) ? "NaN" : "infinite") + ", so that no range can be taken");
  }
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

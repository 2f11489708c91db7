// SPDX-License-Identifier: Apache-2.0
// A convolution with operands, for tests of the ways to compute it, and its result in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "calib/ops/conv.h"
#include "formats/base/rng.h"

namespace qtool::test {

using Ints = std::vector<std::int64_t>;

struct Problem {
  Convolution c;
  std::vector<float> x, kernel, bias;

  std::size_t outputs() const {
    return static_cast<std::size_t>(c.batch * c.groups * c.outputs * c.window.output_size());
  }
  const float* biases() const { return bias.empty() ? nullptr : bias.data(); }
  /// Image n alone.
  Problem image(std::int64_t n) const {
    Problem one = *this;
    one.c.batch = 1;
    const auto size = static_cast<std::ptrdiff_t>(x.size()) / c.batch;
    one.x.assign(x.begin() + size * n, x.begin() + size * (n + 1));
    return one;
  }
  /// In double, of the values or of their magnitudes.
  std::vector<double> by_columns(bool magnitudes) const {
    Threads threads(1);
    const auto wide = [&](const std::vector<float>& v) {
      std::vector<double> out(v.begin(), v.end());
      if (magnitudes) std::transform(out.begin(), out.end(), out.begin(), [](double d) { return std::abs(d); });
      return out;
    };
    std::vector<double> y(outputs());
    convolve_by_columns<double>(threads, c, wide(x).data(), wide(kernel).data(),
                                bias.empty() ? nullptr : wide(bias).data(), y.data());
    return y;
  }
};

inline std::vector<float> normal(const Rng& rng, std::int64_t count, std::uint64_t stream) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(rng.normal(stream * 1000003 + i));
  return v;
}

inline bool same_bits(const std::vector<float>& a, const float* b) {
  return std::memcmp(a.data(), b, a.size() * sizeof(float)) == 0;
}

inline std::string describe(const Convolution& c) {
  const Window& w = c.window;
  const auto pair = [](const Spatial& s) { return std::to_string(s[1]) + "x" + std::to_string(s[2]) + " "; };
  return std::to_string(c.batch) + " images " + pair(w.input) + "groups " + std::to_string(c.groups) + " channels " +
         std::to_string(c.inputs) + " -> " + std::to_string(c.outputs) + " kernel " + pair(w.kernel) + "stride " +
         pair(w.stride) + "dilation " + pair(w.dilation) + "padding " + pair(w.pad_begin);
}

}  // namespace qtool::test

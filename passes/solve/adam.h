// SPDX-License-Identifier: Apache-2.0
// Adam (arXiv 1412.6980) over arrays of numbers, with the bias correction folded into the rate.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/base/widest.h"

namespace qtool::solve {

class Adam {
 public:
  explicit Adam(std::size_t count) : first_(count), second_(count) {}

  /// Begins step t = 1, 2, ... at this rate.
  void begin(std::int64_t t, float rate) {
    const double up = 1 - std::pow(static_cast<double>(beta1), t), down = 1 - std::pow(static_cast<double>(beta2), t);
    rate_ = static_cast<float>(rate * std::sqrt(down) / up);
  }
  /// Steps numbers [from, from + x.size()) against their gradients. Pieces may run side by side.
  void step(std::size_t from, std::span<const float> gradient, std::span<float> x) {
    float *m = first_.data() + from, *v = second_.data() + from, *to = x.data();
    const float *g = gradient.data(), rate = rate_;
    with_widest_vectors([&]() QTOOL_INLINE {
      QTOOL_INDEPENDENT
      for (std::size_t i = 0; i < x.size(); ++i) {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
        to[i] -= rate * m[i] / (std::sqrt(v[i]) + 1e-8F);
      }
    });
  }

 private:
  static constexpr float beta1 = 0.9F, beta2 = 0.999F;
  float rate_ = 0;
  std::vector<float> first_, second_;
};

}  // namespace qtool::solve

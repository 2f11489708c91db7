// SPDX-License-Identifier: Apache-2.0
// softmax of one row, for Softmax and for the operators of attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "calib/ops/rows.h"
#include "calib/ops/vector_math.h"
#include "formats/base/widest.h"

namespace qtool::op {

namespace detail {
constexpr std::int64_t softmax_lanes = 16;
typedef float SoftmaxLanes __attribute__((vector_size(softmax_lanes * sizeof(float))));
typedef float SoftmaxHalf __attribute__((vector_size(softmax_lanes / 2 * sizeof(float))));
typedef double SoftmaxSums __attribute__((vector_size(softmax_lanes / 2 * sizeof(double))));

/// A row that lies in one piece. Behind its end it goes on with -infinity, which adds zeros.
inline void softmax_neighbours(const float* x, float* y, std::int64_t n, float sink) {
  with_widest_vectors([=]() QTOOL_INLINE {
    constexpr std::int64_t lanes = softmax_lanes;
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    SoftmaxLanes v, tops = SoftmaxLanes{} + lowest;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      std::memcpy(&v, x + i, sizeof v);
      tops = v > tops ? v : tops;
    }
    float top = sink;
    for (std::int64_t k = 0; k < lanes; ++k) top = tops[k] > top ? tops[k] : top;
    for (; i < n; ++i) top = x[i] > top ? x[i] : top;
    SoftmaxSums sums{};
    for (i = 0; i < n; i += lanes) {
      float block[lanes];
      const std::int64_t here = std::min(lanes, n - i);
      if (here < lanes) std::fill(block, block + lanes, lowest);
      std::copy_n(x + i, here, block);
      for (float& e : block) e = vector_math::exp(e - top);
      std::copy_n(block, here, y + i);
      for (const float* half = block; half < block + lanes; half += lanes / 2) {
        SoftmaxHalf part;
        std::memcpy(&part, half, sizeof part);
        sums += __builtin_convertvector(part, SoftmaxSums);
      }
    }
    double sum = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    if (sink > lowest) sum += std::exp(static_cast<double>(sink - top));
    const auto scale = static_cast<float>(1 / sum);
    for (i = 0; i < n; ++i) y[i] *= scale;
  });
}
}  // namespace detail

/// y[i] = e^x[i] / (e^sink + sum of e^x) for i = 0, step, ..., (n - 1) step. x and y may be the same.
template <class T>
void softmax_row(const T* x, T* y, std::int64_t n, std::int64_t step, T sink = -std::numeric_limits<T>::infinity()) {
  if constexpr (std::is_same_v<T, float>) {
    if (step == 1) return detail::softmax_neighbours(x, y, n, sink);
  }
  T top = sink;
  for (std::int64_t i = 0; i < n; ++i) top = std::max(top, x[i * step]);
  for (std::int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      y[i * step] = vector_math::exp(x[i * step] - top);
    } else {
      y[i * step] = std::exp(x[i * step] - top);
    }
  }
  double sum = sink > -std::numeric_limits<T>::infinity() ? std::exp(static_cast<double>(sink - top)) : 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(y[i * step]);
  const T scale = static_cast<T>(1 / sum);
  for (std::int64_t i = 0; i < n; ++i) y[i * step] *= scale;
}

}  // namespace qtool::op

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

/// A row of at least one vector, in one piece. Elements behind the last whole vector are taken as the last vector that
/// fits: what it shares with the one before counts once.
inline void softmax_neighbours(const float* x, float* y, std::int64_t n, float sink) {
  with_widest_vectors([=]() QTOOL_INLINE {
    constexpr std::int64_t lanes = softmax_lanes;
    const std::int64_t whole = n / lanes * lanes, end = n - lanes, again = whole - end;
    SoftmaxLanes v, last;
    std::memcpy(&last, x + end, sizeof last);
    SoftmaxLanes tops = last;
    for (std::int64_t i = 0; i < whole; i += lanes) {
      std::memcpy(&v, x + i, sizeof v);
      tops = v > tops ? v : tops;
    }
    float top = sink;
    for (std::int64_t k = 0; k < lanes; ++k) top = tops[k] > top ? tops[k] : top;
    double sums[lanes] = {};
    const auto add = [&](const float* block) QTOOL_INLINE {
      for (std::int64_t k = 0; k < lanes; ++k) sums[k] += static_cast<double>(block[k]);
    };
    for (std::int64_t i = 0; i < whole; i += lanes) {
      float block[lanes];
      std::memcpy(block, x + i, sizeof block);
      for (std::int64_t k = 0; k < lanes; ++k) block[k] = vector_math::exp(block[k] - top);
      add(block);
      std::memcpy(y + i, block, sizeof block);
    }
    if (whole < n) {
      float block[lanes], rest[lanes];
      std::memcpy(block, &last, sizeof block);
      for (std::int64_t k = 0; k < lanes; ++k) block[k] = vector_math::exp(block[k] - top);
      for (std::int64_t k = 0; k < lanes; ++k) rest[k] = k < again ? 0.0F : block[k];
      add(rest);
      std::memcpy(y + end, block, sizeof block);
    }
    for (std::int64_t k = 0; k < lanes / 2; ++k) sums[k] += sums[lanes / 2 + k];
    double sum = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    if (sink > -std::numeric_limits<float>::infinity()) sum += std::exp(static_cast<double>(sink - top));
    const auto scale = static_cast<float>(1 / sum);
    std::memcpy(&last, y + end, sizeof last);
    for (std::int64_t i = 0; i < whole; ++i) y[i] *= scale;
    last *= scale;
    std::memcpy(y + end, &last, sizeof last);
  });
}
}  // namespace detail

/// y[i] = e^x[i] / (e^sink + sum of e^x) for i = 0, step, ..., (n - 1) step. x and y may be the same.
template <class T>
void softmax_row(const T* x, T* y, std::int64_t n, std::int64_t step, T sink = -std::numeric_limits<T>::infinity()) {
  if constexpr (std::is_same_v<T, float>) {
    if (step == 1 && n >= detail::softmax_lanes) return detail::softmax_neighbours(x, y, n, sink);
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

// SPDX-License-Identifier: Apache-2.0
// softmax of one row, for Softmax and for the operators of attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "calib/ops/rows.h"
#include "calib/ops/vector_math.h"
#include "formats/base/widest.h"

namespace qtool::op {

namespace detail {
/// A row that lies in one piece.
inline void softmax_neighbours(const float* x, float* y, std::int64_t n, float sink) {
  with_widest_vectors([&]() QTOOL_INLINE {
    constexpr std::int64_t lanes = 16;
    float tops[lanes];
    std::fill(tops, tops + lanes, sink);
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      for (std::int64_t k = 0; k < lanes; ++k) tops[k] = x[i + k] > tops[k] ? x[i + k] : tops[k];
    }
    float top = *std::max_element(tops, tops + lanes);
    for (; i < n; ++i) top = std::max(top, x[i]);
    for (i = 0; i < n; ++i) y[i] = vector_math::exp(x[i] - top);
    const double rest = sink > -std::numeric_limits<float>::infinity() ? std::exp(static_cast<double>(sink - top)) : 0;
    const auto scale = static_cast<float>(1 / (row_sum(y, n) + rest));
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

// SPDX-License-Identifier: Apache-2.0
// Work on rows: sums in a fixed order, and rows shared out to threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "calib/ops/support.h"
#include "formats/base/widest.h"

namespace qtool::op {

/// What a sum of T is kept in: double, or 64 unsigned bits that wrap like the integers they stand for.
template <class T>
using wide = std::conditional_t<std::is_floating_point_v<T>, double,
                                std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>;

/// Sum of f(x[i]) in eight accumulators, so that additions need not wait for each other; always in the same order.
template <class T, class F>
QTOOL_INLINE inline wide<T> row_sum(const T* x, std::int64_t n, F&& f) {
  using W = wide<T>;
  // Signed integers are summed unsigned: overflow wraps instead of being undefined.
  using S = std::conditional_t<std::is_integral_v<T>, std::uint64_t, double>;
  std::array<S, 8> sums{};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (std::size_t k = 0; k < 8; ++k)
      sums[k] += static_cast<S>(f(static_cast<W>(x[i + static_cast<std::int64_t>(k)])));
  }
  for (std::size_t k = 0; i < n; ++i, ++k) sums[k] += static_cast<S>(f(static_cast<W>(x[i])));
  return static_cast<W>(((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])));
}
template <class T>
QTOOL_INLINE inline wide<T> row_sum(const T* x, std::int64_t n) {
  return row_sum(x, n, [](wide<T> v) QTOOL_INLINE { return v; });
}

/// Calls f(row) for each of `rows` rows of about `length` elements of work, in parallel.
template <class F>
void for_rows(Threads& threads, std::int64_t rows, std::int64_t length, F&& f) {
  const std::int64_t grain = std::max<std::int64_t>(1, elements_per_chunk / std::max<std::int64_t>(length, 1));
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) f(row);
  };
  if (rows <= grain) return part(0, rows);
  threads.for_each(rows, grain, part);
}

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
#include "calib/confidence.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace qtool {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

double sum(std::span<const double> x) { return std::accumulate(x.begin(), x.end(), 0.0); }

Bounded unbounded(double value) { return {value, -infinite, infinite}; }

/// How many times the variance of a share is that of independent rows, at least 1.
double design_effect(std::span<const double> hits, std::span<const double> rows) {
  const double total = sum(rows), p = sum(hits) / total;
  double between = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double d = hits[i] - p * rows[i];
    between += d * d;
  }
  const double independent = p * (1 - p) * total;
  return independent > 0 ? std::max(1.0, between / independent) : 1;
}

}  // namespace

double student_95(std::int64_t degrees) {
  constexpr std::array<double, 10> exact{6.313752, 2.919986, 2.353363, 2.131847, 2.015048,
                                         1.943180, 1.894579, 1.859548, 1.833113, 1.812461};
  if (degrees < 1) return infinite;
  if (degrees <= static_cast<std::int64_t>(exact.size())) return exact[static_cast<std::size_t>(degrees - 1)];
  // Hill, Communications of the ACM 13 (1970), algorithm 396: the expansion about the normal quantile.
  const double z = normal_95, v = static_cast<double>(degrees), z3 = z * z * z, z5 = z3 * z * z;
  return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v) +
         (3 * z5 * z * z + 19 * z5 + 17 * z3 - 15 * z) / (384 * v * v * v);
}

Bounded ratio_of_sums(std::span<const double> a, std::span<const double> b) {
  const double below = sum(b), ratio = sum(a) / below;
  if (a.size() < 2 || !std::isfinite(ratio)) return unbounded(ratio);
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = a[i] - ratio * b[i];
    squares += d * d;
  }
  const auto n = static_cast<double>(a.size());
  const double error = std::sqrt(squares * n / (n - 1)) / below;
  const double reach = student_95(static_cast<std::int64_t>(a.size()) - 1) * error;
  return {ratio, ratio - reach, ratio + reach};
}

Bounded share(std::span<const double> hits, std::span<const double> rows) {
  const double total = sum(rows), p = sum(hits) / total;
  if (!(total > 0)) return unbounded(p);
  const double n = total / design_effect(hits, rows), z2 = normal_95 * normal_95;
  const double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double reach = normal_95 / (1 + z2 / n) * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  return {p, std::clamp(centre - reach, 0.0, p), std::clamp(centre + reach, p, 1.0)};
}

Bounded paired_drop(std::span<const double> lost, std::span<const double> won, std::span<const double> rows) {
  const double total = sum(rows), b = sum(lost), c = sum(won), drop = (b - c) / total;
  if (!(total > 0)) return unbounded(drop);
  const double effect = std::max(design_effect(lost, rows), design_effect(won, rows));
  // Half a row is added to each of the four cells of the table of pairs.
  const double n = total / effect + 2, more = b / effect + 0.5, less = c / effect + 0.5;
  const double centre = (more - less) / n;
  const double reach = normal_95 * std::sqrt(std::max(0.0, more + less - (more - less) * (more - less) / n)) / n;
  return {drop, std::clamp(centre - reach, -1.0, drop), std::clamp(centre + reach, drop, 1.0)};
}

}  // namespace qtool

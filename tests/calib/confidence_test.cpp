// SPDX-License-Identifier: Apache-2.0
// Against scipy.stats: t.ppf, t.interval, binomtest(...).proportion_ci(method="wilson").
#include "calib/confidence.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace qtool;

namespace {

std::vector<double> many(std::size_t n, double value) { return std::vector<double>(n, value); }

/// n samples of one row, the first `hits` with the property.
std::vector<double> first(std::size_t hits, std::size_t n) {
  std::vector<double> v(n, 0.0);
  for (std::size_t i = 0; i < hits; ++i) v[i] = 1;
  return v;
}

}  // namespace

TEST_CASE("quantiles of Student's t") {
  CHECK(student_95(1) == doctest::Approx(6.313752));
  CHECK(student_95(2) == doctest::Approx(2.919986));
  CHECK(student_95(10) == doctest::Approx(1.812461));
  CHECK(student_95(11) == doctest::Approx(1.795885).epsilon(3e-5));
  CHECK(student_95(30) == doctest::Approx(1.697261).epsilon(1e-6));
  CHECK(student_95(1000) == doctest::Approx(1.646379).epsilon(1e-6));
  CHECK(std::isinf(student_95(0)));
}

TEST_CASE("a ratio of sums over equal denominators is a mean with its t interval") {
  const std::vector<double> x{1, 2, 4, 3};
  const Bounded b = ratio_of_sums(x, many(4, 1));
  CHECK(b.value == 2.5);
  CHECK(b.low == doctest::Approx(0.98091043));
  CHECK(b.high == doctest::Approx(4.01908957));
  const Bounded exact = ratio_of_sums(std::vector<double>{1, 2, 3}, std::vector<double>{2, 4, 6});
  CHECK(exact.low == doctest::Approx(0.5));
  CHECK(exact.high == doctest::Approx(0.5));
  CHECK(std::isinf(ratio_of_sums(many(1, 1), many(1, 2)).high));
}

TEST_CASE("shares have Wilson's bounds, at 0 and 1 too") {
  const Bounded b = share(first(95, 100), many(100, 1));
  CHECK(b.value == 0.95);
  CHECK(b.low == doctest::Approx(0.90083891));
  CHECK(b.high == doctest::Approx(0.97545264));
  const Bounded all = share(many(100, 1), many(100, 1));
  CHECK(all.low == doctest::Approx(0.97365728));
  CHECK(all.high == 1);
  // Rows that agree or differ by whole samples count as so many samples: ten of ten rows are one.
  std::vector<double> hits = first(95, 100);
  for (double& h : hits) h *= 10;
  const Bounded together = share(hits, many(100, 10));
  CHECK(together.low == doctest::Approx(b.low).epsilon(1e-3));
  // Where they vary by themselves they are a thousand.
  std::vector<double> apart = many(100, 10);
  for (std::size_t i = 0; i < 50; ++i) apart[2 * i] = 9;
  CHECK(share(apart, many(100, 10)).low > 0.935);
}

TEST_CASE("a drop is bounded by the pairs that differ") {
  std::vector<double> lost = first(8, 100), won(100, 0.0);
  won[50] = won[51] = 1;
  const Bounded b = paired_drop(lost, won, many(100, 1));
  CHECK(b.value == doctest::Approx(0.06));
  CHECK(b.low == doctest::Approx(0.00620461));
  CHECK(b.high == doctest::Approx(0.11144245));
  const Bounded none = paired_drop(many(50, 0), many(50, 0), many(50, 1));
  CHECK(none.value == 0);
  CHECK(none.high == doctest::Approx(1.6448536 / 52));
}

// SPDX-License-Identifier: Apache-2.0
#include "calib/linalg.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/base/rng.h"

namespace qtool {
namespace {

template <class T>
std::vector<T> random_values(std::int64_t count, const char* name) {
  const Rng rng(7, "linalg_test", name);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(rng.normal(i));
  return values;
}

/// The definition, in double, next to what gemm() gives; rows of C carry two extra elements that must stay.
template <class T>
void check_against_definition(std::int64_t m, std::int64_t n, std::int64_t k, bool ta, bool tb, T alpha, T beta) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(ta);
  CAPTURE(tb);
  const std::int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 2;
  const auto a = random_values<T>((ta ? k : m) * lda, "a"), b = random_values<T>((tb ? n : k) * ldb, "b");
  const auto c0 = random_values<T>(m * ldc, "c");
  auto c = c0;
  Threads threads(2);
  gemm(threads, ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(), ldc);
  const double tolerance = (sizeof(T) == 4 ? 4e-6 : 1e-14) * (std::sqrt(static_cast<double>(k)) * 4 + 4);
  double worst = 0;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < ldc; ++j) {
      const auto at = static_cast<std::size_t>(i * ldc + j);
      if (j >= n) {
        CHECK(c[at] == c0[at]);
        continue;
      }
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        sum += static_cast<double>(a[static_cast<std::size_t>(ta ? l * lda + i : i * lda + l)]) *
               static_cast<double>(b[static_cast<std::size_t>(tb ? j * ldb + l : l * ldb + j)]);
      }
      const double expected = alpha * sum + (beta == T(0) ? 0.0 : beta * static_cast<double>(c0[at]));
      worst = std::max(worst, std::abs(expected - static_cast<double>(c[at])));
    }
  }
  CHECK(worst < tolerance);
}

}  // namespace

TEST_CASE("gemm: every transposition and shape agrees with the definition") {
  const std::int64_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},   {1, 90, 70},   {90, 1, 70},
                                    {33, 65, 17}, {70, 70, 0}, {64, 200, 64}, {600, 130, 20}};
  for (const auto& s : shapes) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        check_against_definition<float>(s[0], s[1], s[2], ta, tb, 1.0F, 0.0F);
        check_against_definition<float>(s[0], s[1], s[2], ta, tb, 0.5F, -2.0F);
        check_against_definition<double>(s[0], s[1], s[2], ta, tb, 0.5, 1.0);
      }
    }
  }
}

TEST_CASE("gemm: beta zero ignores what C held, even NaN") {
  Threads threads(1);
  for (const std::int64_t n : {2, 40}) {
    const std::vector<float> ones(static_cast<std::size_t>(n * n), 1.0F);
    std::vector<float> c(static_cast<std::size_t>(n * n), std::numeric_limits<float>::quiet_NaN());
    gemm(threads, false, false, n, n, n, 1.0F, ones.data(), n, ones.data(), n, 0.0F, c.data(), n);
    for (const float v : c) CHECK(v == static_cast<float>(n));
  }
  constexpr std::int64_t n = 90;
  const std::vector<float> ones(n * n, 1.0F);
  for (const bool row : {true, false}) {
    std::vector<float> c(n, std::numeric_limits<float>::quiet_NaN());
    gemm(threads, false, false, row ? 1 : n, row ? n : 1, n, 1.0F, ones.data(), n, ones.data(), row ? n : 1, 0.0F,
         c.data(), row ? n : 1);
    for (const float v : c) CHECK(v == static_cast<float>(n));
  }
}

TEST_CASE("gemm: same bytes for any number of threads, and inside a pool") {
  const std::int64_t m = 530, n = 700, k = 90;
  const auto a = random_values<float>(m * k, "a"), b = random_values<float>(k * n, "b");
  std::vector<std::vector<float>> results;
  for (const int count : {1, 2, 3}) {
    Threads threads(count);
    std::vector<float> c(static_cast<std::size_t>(m * n));
    gemm(threads, false, false, m, n, k, 1.0F, a.data(), k, b.data(), n, 0.0F, c.data(), n);
    results.push_back(c);
  }
  Threads threads(2);
  std::vector<float> nested(static_cast<std::size_t>(m * n));
  threads.for_each(2, 1, [&](std::int64_t begin, std::int64_t) {
    if (begin == 1) gemm(threads, false, false, m, n, k, 1.0F, a.data(), k, b.data(), n, 0.0F, nested.data(), n);
  });
  results.push_back(nested);
  for (const auto& r : results) CHECK(std::memcmp(r.data(), results[0].data(), r.size() * sizeof(float)) == 0);
}

TEST_CASE("linalg_info: names library, core and who chose") {
  const LinalgInfo& info = linalg_info();
  CHECK(!info.library.empty());
  CHECK(!info.core.empty());
  CHECK(!info.chosen_by.empty());
  const bool known = info.widest == "avx512" || info.widest == "avx2" || info.widest == "sse";
  CHECK(known);
}

}  // namespace qtool

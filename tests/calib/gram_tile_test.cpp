// SPDX-License-Identifier: Apache-2.0
#include "calib/gram_tile.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "formats/base/rng.h"

using namespace qtool;

TEST_CASE("kernels of X^T X: sums as double gives them, the same bits from all that fuse") {
  constexpr std::int64_t rows = 2 * GramTile::chain + 77, width = GramTile::width, ldc = width + 5;
  const Rng rng(4, "gram");
  std::vector<float> a(rows * width), b(rows * width);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<float>(rng.normal(i));
    b[i] = static_cast<float>(rng.normal(i + a.size())) + 0.5F;
  }
  std::vector<double> exact(GramTile::height * ldc, 3.0), fused;
  for (std::int64_t i = 0; i < GramTile::height; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      for (std::int64_t k = 0; k < rows; ++k) {
        exact[static_cast<std::size_t>(i * ldc + j)] +=
            static_cast<double>(a[static_cast<std::size_t>(k * width + 8 + i)]) *
            static_cast<double>(b[static_cast<std::size_t>(k * width + j)]);
      }
    }
  }
  for (const Vectors v : {Vectors::sse, Vectors::avx2, Vectors::avx512}) {
    if (v > widest_available()) continue;
    std::vector<double> c(exact.size(), 3.0);
    GramTile::with(v)(rows, a.data() + GramTile::height, b.data(), c.data(), ldc);
    double worst = 0;
    for (std::size_t i = 0; i < c.size(); ++i) worst = std::max(worst, std::abs(c[i] - exact[i]));
    CHECK(worst < 2e-4);  // sums of 512 products of about 1: a few units in the last place of 30
    if (v == Vectors::sse) continue;
    if (fused.empty()) fused = c;
    CHECK(c == fused);
  }
}

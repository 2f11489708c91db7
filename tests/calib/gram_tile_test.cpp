// SPDX-License-Identifier: Apache-2.0
#include "calib/gram_tile.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "calib/gram_bf16.h"
#include "formats/base/rng.h"
#include "formats/number/half.h"
#include "tests/backends/emulated_tiles.h"

using namespace qtool;

namespace {

constexpr std::int64_t columns = 40, side = 96;  // of X, and of the sums

std::vector<float> matrix(std::int64_t rows) {
  const Rng rng(4, "gram");
  std::vector<float> x(static_cast<std::size_t>(rows * columns));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i)) + 0.5F;
  return x;
}

float rounded(float x) { return bf16_to_float(bf16_for_products(x)); }

/// All products of columns, by a kernel; X^T X + 3.
std::vector<double> gram(const GramKernel& kernel, const std::vector<float>& x, std::int64_t rows) {
  constexpr std::int64_t together = 32;
  const std::int64_t panels = (columns + kernel.width - 1) / kernel.width;
  std::vector<std::vector<std::uint64_t>> laid_out(
      static_cast<std::size_t>(panels),
      std::vector<std::uint64_t>(static_cast<std::size_t>(kernel.panel_bytes(rows) / 8 + 1)));
  for (std::int64_t p = 0; p < panels; ++p) {
    for (std::int64_t begin = 0; begin < rows; begin += together) {
      kernel.lay_out(x.data() + p * kernel.width, columns, std::min(kernel.width, columns - p * kernel.width), begin,
                     std::min(rows, begin + together), rows, laid_out[static_cast<std::size_t>(p)].data());
    }
  }
  std::vector<double> c(side * side, 3.0), out;
  for (std::int64_t i = 0; i < panels * kernel.width; i += kernel.height) {
    for (std::int64_t j = 0; j < panels; ++j) {
      kernel.add(kernel.filled(rows), laid_out[static_cast<std::size_t>(i / kernel.width)].data(), i % kernel.width,
                 laid_out[static_cast<std::size_t>(j)].data(), c.data() + i * side + j * kernel.width, side);
    }
  }
  for (std::int64_t i = 0; i < columns; ++i) {
    out.insert(out.end(), c.begin() + i * side, c.begin() + i * side + columns);
  }
  return out;
}

/// The same in double, of f(x).
template <class F>
std::vector<double> plainly(const std::vector<float>& x, std::int64_t rows, F f) {
  std::vector<double> c(columns * columns, 3.0);
  for (std::int64_t i = 0; i < columns; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t k = 0; k < rows; ++k) {
        c[static_cast<std::size_t>(i * columns + j)] +=
            static_cast<double>(f(x[static_cast<std::size_t>(k * columns + i)])) *
            static_cast<double>(f(x[static_cast<std::size_t>(k * columns + j)]));
      }
    }
  }
  return c;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

constexpr double near = 4e-3;  // sums of 512 products of about 1: some fifty units in the last place of 600

}  // namespace

TEST_CASE("kernels of X^T X: sums as double gives them, the same bits from all that fuse") {
  constexpr std::int64_t rows = 2 * GramKernel::chain + 77;
  const std::vector<float> x = matrix(rows);
  const std::vector<double> exact = plainly(x, rows, [](float v) { return v; });
  std::vector<double> fused;
  for (const Vectors v : {Vectors::sse, Vectors::avx2, Vectors::avx512}) {
    if (v > widest_available()) continue;
    const std::vector<double> c = gram(GramKernel::of(GramFormat::f32, v, processor()), x, rows);
    CHECK(distance(c, exact) < near);
    if (v == Vectors::sse) continue;
    if (fused.empty()) fused = c;
    CHECK(c == fused);
  }
}

TEST_CASE("bfloat16 for products: nearest, finite, nothing below 2^-50") {
  CHECK(rounded(1.0F) == 1.0F);
  CHECK(rounded(1.00390625F) == 1.0F);  // ties to even
  CHECK(rounded(1.01171875F) == 1.015625F);
  CHECK(rounded(-std::numeric_limits<float>::max()) == -0x1.fep127F);
  CHECK(rounded(0x1p-50F) == 0x1p-50F);
  CHECK(rounded(0x1.fcp-51F) == 0.0F);
  CHECK(rounded(0x1p-149F) == 0.0F);
}

TEST_CASE(
    "kernels of bfloat16: exact products of rounded numbers, the same bits with and without instructions for it") {
  Processor pairs, none;
  pairs.avx512_bf16 = true;
  for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{34}, 2 * GramKernel::chain + 77}) {
    const std::vector<float> x = matrix(rows);
    const std::vector<double> exact = plainly(x, rows, rounded);
    const std::vector<double> plain = gram(GramKernel::of(GramFormat::bf16, Vectors::sse, none), x, rows);
    CHECK(distance(plain, exact) < near);
    for (const Vectors v : {Vectors::avx2, Vectors::avx512}) {
      if (v <= widest_available()) CHECK(gram(GramKernel::of(GramFormat::bf16, v, none), x, rows) == plain);
    }
    if (processor().avx512_bf16) {
      CHECK(gram(GramKernel::of(GramFormat::bf16, Vectors::avx512, pairs), x, rows) == plain);
    }
  }
}

#if defined(__x86_64__)
TEST_CASE("kernel of bfloat16 with tiles") {
  if (widest_available() != Vectors::avx512) return;  // it lays rows out with them
  Processor tiles;
  tiles.amx_bf16 = true;
  std::optional<test::EmulatedTiles> emulated;
  if (!processor().amx_bf16) emulated.emplace();
  for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{34}, 2 * GramKernel::chain + 77}) {
    const std::vector<float> x = matrix(rows);
    CHECK(distance(gram(GramKernel::of(GramFormat::bf16, Vectors::avx512, tiles), x, rows), plainly(x, rows, rounded)) <
          near);
  }
}
#endif

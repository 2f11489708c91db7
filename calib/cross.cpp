// SPDX-License-Identifier: Apache-2.0
#include "calib/cross.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "calib/linalg.h"
#include "calib/ops/scratch.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::int64_t part = 4096;  // rows whose products are summed in float32
constexpr std::int64_t side = 512;   // of a tile of sums

}  // namespace

CrossSum::CrossSum(std::int64_t n) : n_(n), sums_(DType::f64, {n, n}) { QTOOL_ENSURE(n > 0, "a layer has inputs"); }

void CrossSum::add(std::span<const float> floats, std::span<const float> quantized, Threads& threads) {
  QTOOL_ENSURE(floats.size() == quantized.size() && static_cast<std::int64_t>(floats.size()) % n_ == 0,
               "rows come in pairs, as long as the sum is wide");
  const auto count = static_cast<std::int64_t>(floats.size()) / n_;
  const auto sums = sums_.write<double>();
  for (std::int64_t begin = 0; begin < count; begin += part) {
    const std::int64_t rows = std::min(part, count - begin);
    std::vector<float> apart(static_cast<std::size_t>(rows * n_)), seen(apart.size());
    std::int64_t taken = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float *f = floats.data() + (begin + r) * n_, *q = quantized.data() + (begin + r) * n_;
      const auto finite = [](float x) { return std::isfinite(x); };
      if (!std::all_of(f, f + n_, finite) || !std::all_of(q, q + n_, finite)) continue;
      float *d = apart.data() + taken * n_, *s = seen.data() + taken * n_;
      for (std::int64_t c = 0; c < n_; ++c) d[c] = f[c] - q[c], s[c] = q[c];
      ++taken;
    }
    rows_ += taken;
    const std::int64_t across = pieces(n_, side);
    threads.for_each(across * across, 1, [&](std::int64_t first, std::int64_t last) {
      Scratch scratch;
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t i = t / across * side, j = t % across * side;
        const std::int64_t m = std::min(side, n_ - i), k = std::min(side, n_ - j);
        float* product = scratch.get(m * k);
        gemm(threads, true, false, m, k, taken, 1.0F, apart.data() + i, n_, seen.data() + j, n_, 0.0F, product, k);
        for (std::int64_t a = 0; a < m; ++a) {
          double* to = sums.data() + (i + a) * n_ + j;
          for (std::int64_t b = 0; b < k; ++b) to[b] += static_cast<double>(product[a * k + b]);
        }
      }
    });
  }
}

Tensor CrossSum::matrix(Threads& threads) const {
  QTOOL_ENSURE(rows_ > 0, "a sum was collected");
  Tensor out = sums_;
  const double scale = 2.0 / static_cast<double>(rows_);
  const auto values = out.write<double>();
  threads.for_each(n_, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * n_; i < end * n_; ++i) values[static_cast<std::size_t>(i)] *= scale;
  });
  return out;
}

}  // namespace qtool

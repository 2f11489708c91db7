// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/descent.h"

#include <algorithm>
#include <numeric>

#include "calib/linalg.h"
#include "formats/base/widest.h"

namespace qtool::solve {
namespace {

constexpr std::int64_t block = 64;  // columns whose changes are fed to the others together
constexpr std::int64_t tile = 64;   // rows

}  // namespace

void descend(Threads& threads, std::span<const float> w, const Grid& grid, std::span<const double> h,
             std::int64_t sweeps, Solved& solved) {
  const std::int64_t m = grid.rows(), n = static_cast<std::int64_t>(w.size()) / m;
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto diagonal = [&](std::int64_t c) { return h[static_cast<std::size_t>(c * n + c)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return diagonal(a) > diagonal(b); });
  // By place in that order: H, errors E, and G = H E.
  BlockVector<double> ordered(h.size()), e(w.size()), g(w.size()), change;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      ordered[static_cast<std::size_t>(i * n + j)] =
          h[static_cast<std::size_t>(order[static_cast<std::size_t>(i)] * n + order[static_cast<std::size_t>(j)])];
    }
    const std::int64_t from = order[static_cast<std::size_t>(i)] * m;
    for (std::int64_t r = 0; r < m; ++r) {
      e[static_cast<std::size_t>(i * m + r)] = static_cast<double>(solved.values[static_cast<std::size_t>(from + r)]) -
                                               static_cast<double>(w[static_cast<std::size_t>(from + r)]);
    }
  }
  gemm(threads, false, false, n, m, n, 1.0, ordered.data(), n, e.data(), m, 0.0, g.data(), m);
  for (std::int64_t sweep = 0; sweep < sweeps; ++sweep) {
    for (std::int64_t begin = 0; begin < n; begin += block) {
      const std::int64_t width = std::min(block, n - begin);
      change.assign(static_cast<std::size_t>(width * m), 0.0);
      threads.for_each(m, tile, [&](std::int64_t first, std::int64_t last) {
        const std::int64_t count = last - first;
        double best[tile], value[tile];
        std::int16_t codes[tile];
        for (std::int64_t k = 0; k < width; ++k) {
          const std::int64_t p = begin + k, c = order[static_cast<std::size_t>(p)];
          const double own = ordered[static_cast<std::size_t>(p * n + p)];
          if (!(own > 0)) continue;
          float* q = solved.values.data() + c * m + first;
          std::int16_t* code = solved.codes.data() + c * m + first;
          const double* gradient = g.data() + p * m + first;
          double* d = change.data() + k * m + first;
          for (std::int64_t r = 0; r < count; ++r) best[r] = static_cast<double>(q[r]) - gradient[r] / own;
          grid.nearest(c, first, count, best, codes, value);
          for (std::int64_t r = 0; r < count; ++r) {
            const double step = value[r] - static_cast<double>(q[r]);
            if (!(2 * step * gradient[r] + step * step * own < 0)) continue;
            d[r] = step;
            q[r] = static_cast<float>(value[r]);
            code[r] = codes[r];
          }
          with_widest_vectors([&]() QTOOL_INLINE {
            for (std::int64_t j = 0; j < width; ++j) {
              const double x = ordered[static_cast<std::size_t>(p * n + begin + j)];
              double* to = g.data() + (begin + j) * m + first;
              QTOOL_INDEPENDENT
              for (std::int64_t r = 0; r < count; ++r) to[r] += x * d[r];
            }
          });
        }
      });
      for (const auto& [from, to] : {std::pair(std::int64_t{0}, begin), {begin + width, n}}) {
        if (from == to) continue;
        gemm(threads, false, false, to - from, m, width, 1.0, ordered.data() + from * n + begin, n, change.data(), m,
             1.0, g.data() + from * m, m);
      }
    }
  }
}

}  // namespace qtool::solve

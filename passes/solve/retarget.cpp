// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/retarget.h"

#include "calib/factor.h"
#include "calib/linalg.h"

namespace qtool::solve {

BlockVector<float> retarget(Threads& threads, std::span<const float> w, const Tensor& h, const Tensor& c, double added,
                            double share) {
  const std::int64_t n = h.shape()[0], m = static_cast<std::int64_t>(w.size()) / n;
  Tensor factor = h;
  const auto f = factor.write<double>();
  for (std::int64_t i = 0; i < n; ++i) f[static_cast<std::size_t>(i * n + i)] += added;
  if (!factor_reversed(threads, n, f)) return {};
  BlockVector<double> rows(w.size()), moved(w.size());
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t k = 0; k < n; ++k) {
      rows[static_cast<std::size_t>(r * n + k)] = static_cast<double>(w[static_cast<std::size_t>(k * m + r)]);
    }
  }
  gemm(threads, false, false, m, n, n, share, rows.data(), n, c.read<double>().data(), n, 0.0, moved.data(), n);
  solve_reversed(threads, n, f, m, moved);
  BlockVector<float> out(w.begin(), w.end());
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t k = 0; k < n; ++k) {
      out[static_cast<std::size_t>(k * m + r)] += static_cast<float>(moved[static_cast<std::size_t>(r * n + k)]);
    }
  }
  return out;
}

}  // namespace qtool::solve

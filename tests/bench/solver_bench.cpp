// SPDX-License-Identifier: Apache-2.0
// Times the parts of GPTQ on one layer; tests/bench/solver.py runs it beside PyTorch.
//
//   qtool_solver_bench ROWS COLUMNS TOKENS GROUP THREADS      prints seconds: hessian, factor, columns, gemm GFLOP/s
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "calib/hessian.h"
#include "calib/linalg.h"
#include "formats/base/rng.h"
#include "passes/solve/columns.h"

using namespace qtool;
using namespace qtool::solve;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 1;
  const std::int64_t m = std::atoll(argv[1]), n = std::atoll(argv[2]), tokens = std::atoll(argv[3]),
                     group = std::atoll(argv[4]);
  Threads threads(std::atoi(argv[5]));
  const std::int64_t batch = 2048;
  const Rng rng(1, "bench");
  std::vector<float> x(static_cast<std::size_t>(batch * n)), w(static_cast<std::size_t>(m * n));
  threads.for_each(batch, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * n; i < end * n; ++i) {
      x[static_cast<std::size_t>(i)] = static_cast<float>(rng.uniform(static_cast<std::uint64_t>(i))) - 0.5F;
    }
  });
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(rng.uniform(i + (1ULL << 40))) - 0.5F;
  std::vector<float> c(static_cast<std::size_t>(n * n));
  gemm(threads, true, false, n, n, batch, 1.0F, x.data(), n, x.data(), n, 0.0F, c.data(), n);
  double start = seconds();
  gemm(threads, true, false, n, n, batch, 1.0F, x.data(), n, x.data(), n, 0.0F, c.data(), n);
  const double rate = 2.0 * static_cast<double>(batch * n) * static_cast<double>(n) / (seconds() - start) / 1e9;
  c = {};
  start = seconds();
  Hessian sum(n);
  for (std::int64_t done = 0; done < tokens; done += batch) {
    sum.add({x.data(), static_cast<std::size_t>(std::min(batch, tokens - done) * n)}, threads);
  }
  const Tensor h = sum.matrix(threads);
  const double hessian = seconds() - start;
  start = seconds();
  const Conditioned factor = condition(threads, h, tokens, 0.01, Order::none, group);
  const double factored = seconds() - start;
  start = seconds();
  QuantSpec spec;
  spec.format = &number::uint4;
  spec.symmetric = false;
  std::vector<std::int32_t> plane;
  for (std::int64_t i = 0; i < n; ++i) plane.push_back(static_cast<std::int32_t>(i / group));
  Grid grid(spec, m, plane);
  const Solved solved = quantize_columns(threads, w, grid, factor, {128, true, {}, {}});
  double loss = 0;
  for (const double l : solved.loss) loss += l;
  std::printf("%.4f %.4f %.4f %.1f %.6g\n", hessian, factored, seconds() - start, rate, loss);
  return factor.factored ? 0 : 2;
}

// SPDX-License-Identifier: Apache-2.0
// Times the parts of GPTQ on one layer; tests/bench/solver.py runs it beside PyTorch.
//
//   qtool_solver_bench ROWS COLUMNS TOKENS GROUP THREADS      prints lines: part, seconds, processor seconds, flops
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "calib/hessian.h"
#include "calib/linalg.h"
#include "formats/base/rng.h"
#include "formats/base/widest.h"
#include "passes/solve/columns.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace qtool;
using namespace qtool::solve;

namespace {

/// Runs f and prints what it took.
template <class F>
void timed(const char* part, double flops, const F& f) {
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()); };
  const std::clock_t busy = std::clock();
  const auto start = now();
  f();
  const std::chrono::duration<double> wall = now() - start;
  std::printf("%s %.4f %.4f %.6g\n", part, wall.count(), static_cast<double>(std::clock() - busy) / CLOCKS_PER_SEC,
              flops);
}

// Chains of fused multiply-adds that stay in registers: the most that the widest vectors can do.
constexpr std::int64_t rounds = 20'000'000, chains = 12;
volatile float kept;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void fused_avx512() {
  __m512 sums[chains];
  for (auto& sum : sums) sum = _mm512_set1_ps(1);
  const __m512 x = _mm512_set1_ps(0.5F);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_fmadd_ps(sum, x, x);
  }
  for (const auto& sum : sums) kept = kept + _mm512_cvtss_f32(sum);
}

__attribute__((target("avx2,fma"))) void fused_avx2() {
  __m256 sums[chains];
  for (auto& sum : sums) sum = _mm256_set1_ps(1);
  const __m256 x = _mm256_set1_ps(0.5F);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, x, x);
  }
  for (const auto& sum : sums) kept = kept + _mm256_cvtss_f32(sum);
}
#endif

void peak(Threads& threads, int count) {
#if defined(__x86_64__)
  const Vectors widest = widest_available();
  if (widest == Vectors::sse) return;
  const double each = 2.0 * chains * rounds * (widest == Vectors::avx512 ? 16 : 8);
  timed("peak", each * count, [&] {
    threads.for_each(count, 1,
                     [&](std::int64_t, std::int64_t) { widest == Vectors::avx512 ? fused_avx512() : fused_avx2(); });
  });
#else
  static_cast<void>(threads), static_cast<void>(count);
#endif
}

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
  peak(threads, std::atoi(argv[5]));
  std::vector<float> c(static_cast<std::size_t>(n * n));
  const auto multiply = [&] {
    gemm(threads, true, false, n, n, batch, 1.0F, x.data(), n, x.data(), n, 0.0F, c.data(), n);
  };
  const auto squared = static_cast<double>(n) * static_cast<double>(n);
  multiply();
  timed("gemm", 2 * static_cast<double>(batch) * squared, multiply);
  c = {};
  Tensor h;
  for (const GramFormat format : {GramFormat::bf16, GramFormat::f32}) {
    timed(format == GramFormat::f32 ? "hessian" : "rounded", static_cast<double>(tokens) * squared, [&] {
      Hessian sum(n, format);
      for (std::int64_t done = 0; done < tokens; done += batch) {
        sum.add({x.data(), static_cast<std::size_t>(std::min(batch, tokens - done) * n)}, threads);
      }
      h = sum.matrix(threads);
    });
  }
  Conditioned factor;
  timed("factor", squared * static_cast<double>(n) / 3,
        [&] { factor = condition(threads, h, tokens, 0.01, Order::none, group); });
  QuantSpec spec;
  spec.format = &number::uint4;
  spec.symmetric = false;
  std::vector<std::int32_t> plane;
  for (std::int64_t i = 0; i < n; ++i) plane.push_back(static_cast<std::int32_t>(i / group));
  Solved solved;
  timed("columns", static_cast<double>(m) * squared, [&] {
    Grid grid(spec, m, plane);
    solved = quantize_columns(threads, w, grid, factor, {128, true, {}, {}});
  });
  double loss = 0;
  for (const double l : solved.loss) loss += l;
  std::printf("loss %.6g\n", loss);
  return factor.factored ? 0 : 2;
}

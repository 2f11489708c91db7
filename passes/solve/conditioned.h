// SPDX-License-Identifier: Apache-2.0
// Conditioned: a Hessian made fit for a solver and factored once, shared by all matrices with the same inputs
// (gptq.md section 4, steps A and B).
//
//   P (H + lambda mean(diag H) I) P^T = U D U^T      U unit upper triangular, D diagonal, P the order of the columns
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool::solve {

enum class Order : std::uint8_t {
  none,
  act,  // columns by falling diagonal of H
  gar,  // within each group by falling diagonal, groups by their largest (arXiv 2505.14638)
};

struct Conditioned {
  std::int64_t n = 0;
  std::vector<std::int32_t> order;  // column visited at each place
  Tensor u;                      // float64 [n, n], or float32 where n is large; only the upper triangle means anything
  std::vector<double> d;         // by place
  std::vector<double> diagonal;  // of H, dead inputs 1, by column
  double lambda = 0;             // the damping that held, as a share of the mean of the diagonal
  int retries = 0;               // larger dampings that were tried before
  std::int64_t dead = 0;         // inputs that were zero in all rows
  bool factored = false;         // false: not even the largest damping helped
};

/// `h`: float64 [n, n], symmetric. `damp`: the share to begin with; 0: by the rows per column, clamp(0.15 n / rows,
/// 0.01, 0.5) (gptq.md section 4). Where the factorization fails the damping grows by 0.01 up to 1, then a floor of
/// 1e-6 max(diag) 10^k, k = 0..5, is added as well. `group`: for Order::gar.
Conditioned condition(Threads&, const Tensor& h, std::int64_t rows, double damp, Order order, std::int64_t group);

/// What condition() adds to the diagonal of `h` at first.
double damping(const Tensor& h, std::int64_t rows, double damp);

/// Columns in the order of a solver, from the diagonal of H.
std::vector<std::int32_t> order_of(const std::vector<double>& diagonal, Order order, std::int64_t group);

}  // namespace qtool::solve

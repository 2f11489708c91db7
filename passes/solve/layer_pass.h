// SPDX-License-Identifier: Apache-2.0
// LayerPass: a pass that chooses codes of weights by what they do to the outputs of their layer, e H e^T. It takes the
// model layer by layer, hands each matrix to the solver of the pass, descends on its codes and refits its scales where
// the recipe says so, and reports the error before and after.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "passes/pass.h"
#include "passes/solve/problem.h"
#include "passes/solve/walk.h"

namespace qtool::solve {

class LayerPass : public Pass {
 public:
  explicit LayerPass(std::string_view name) : name_(name) {}
  /// The knobs that all of them have. A pass declares its own before them.
  void options(Options& o) override;
  bool does_without_data() const final { return !walk_.importance.empty(); }
  void run(Graph& graph, PassContext& ctx) final;
  /// The same decisions as rounding to nearest would make; what is computed for them is more.
  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) final;

 protected:
  /// What solve() computes of a matrix [m, n], for plans.
  struct Effort {
    double factors = 0;  // of the Hessian
    double tries = 0;    // products of m n^2 multiply-adds
  };
  virtual Effort effort(bool groups) const = 0;
  /// Codes and scales of a matrix, from the nearest ones on. False: not solvable, the nearest ones stay.
  virtual bool solve(const Problem& problem, Factors& factors, Found& found) const = 0;

 private:
  /// Sums over sampled rows of all matrices, and what went wrong.
  struct Report {
    double nearest = 0, found = 0, whole = 0, lambda = 0;
    std::int64_t failed = 0;
  };
  void solve_all(const Graph& graph, PassContext& ctx, Together& together) const;
  Report solve_one(Threads& threads, Weight& target, std::int64_t i, const Tensor& h, const CrossSum* cross,
                   Factors& factors) const;
  void tell(const Graph& graph, PassContext& ctx, const Together& together, const Weight& target,
            const std::vector<Report>& reports) const;

  std::string_view name_;
  std::int64_t group_ = 0, sweeps_ = 0, refit_ = 0;
  double damp_ = 0, asymmetric_ = 0;
  WalkOptions walk_;
};

}  // namespace qtool::solve

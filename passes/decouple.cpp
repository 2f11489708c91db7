// SPDX-License-Identifier: Apache-2.0
// decouple: codes, and scales with zero points, as two blocks of variables of one quadratic, chosen in turn (decoupleQ,
// arXiv 2404.12759; layerwise-optimizers.md section 3, steps 1 to 4):
//
//   codes   under fixed scales, column by column with feedback (columns.h), then by coordinate descent (descent.h)
//   scales  under fixed codes, by least squares (refit.h)
//
// Each row keeps the best that it has seen, so its error never rises.
#include <algorithm>
#include <utility>

#include "passes/solve/descent.h"
#include "passes/solve/layer_pass.h"
#include "passes/solve/refit.h"

namespace qtool::pass {
namespace {

using namespace solve;

class Decouple final : public LayerPass {
  std::int64_t rounds_ = 4;

 public:
  Decouple() : LayerPass("decouple") {}

  void options(Options& o) override {
    o("rounds", rounds_, "rounds of new codes and new scales; ends early where hardly a row gets better", 1, 100);
    LayerPass::options(o);
  }

 private:
  /// Of two starts: codes, a sweep with its products, errors, new scales.
  Effort effort(bool) const override { return {1, 16.0 * static_cast<double>(rounds_)}; }

  bool solve(const Problem& problem, Factors& factors, Found& found) const override {
    const Conditioned& factor = factors.of(Order::act, 0);
    if (!factor.factored) return false;
    found.solved.loss = problem.errors(found.solved.values);
    if (problem.free) {
      // Nearest codes tell which range is worth most (layerwise-optimizers.md section 1); with feedback codes want more
      // room, so that both are carried on.
      Found clipped{problem.blank, {}};
      problem.fit({Clip::Kind::block}, clipped.grid);
      improve(problem, factor, clipped);
      improve(problem, factor, found);
      take_better(clipped, found);
    } else {
      improve(problem, factor, found);
    }
    return true;
  }

  void improve(const Problem& problem, const Conditioned& factor, Found& found) const {
    if (found.solved.codes.empty()) {
      found.solved = problem.nearest(found.grid);
      found.solved.loss = problem.errors(found.solved.values);
    }
    for (std::int64_t k = 0; k < rounds_; ++k) {
      Found next{found.grid, {}};
      next.solved = quantize_columns(problem.threads, problem.w, next.grid, factor, {});
      descend(problem.threads, problem.w, next.grid, problem.h, 1, next.solved);
      next.solved.loss = problem.errors(next.solved.values);
      const std::int64_t better = take_better(next, found);
      if (std::max(better, refit(problem, found)) * 10000 < problem.m) break;
    }
  }
};

}  // namespace

constinit const PassDef decouple{"decouple",
                                 "codes and scales of weights in turn, each the best for the other",
                                 "arXiv 2404.12759",
                                 Effect::annotate,
                                 1,
                                 make_pass<Decouple>,
                                 /*needs_data=*/true,
                                 /*follows_rules=*/false,
                                 /*feeds_back=*/true};

}  // namespace qtool::pass

// SPDX-License-Identifier: Apache-2.0
// ada_round: whether a weight is rounded up or down is learned (AdaRound, arXiv 2004.10568; layerwise-optimizers.md
// section 5), at the level of a layer, where the loss is e H e^T and needs no data again:
//
//   w^ = s (clamp(floor(w / s) + h(a))),  h(a) = clip(1.2 sigmoid(a) - 0.1, 0, 1)
//   loss = e H e^T / (mean s^2 mean diag H) + lambda sum (1 - |2 h - 1|^beta),  beta from 20 to 2 after a warm-up
//
// Adam over a. The grid stays as it is; each row keeps the better of the learned and the nearest codes.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/ops/vector_math.h"
#include "passes/solve/adam.h"
#include "passes/solve/layer_pass.h"

namespace qtool::pass {
namespace {

using namespace solve;

constexpr float stretch = 1.2F, offset = -0.1F;  // zeta - gamma, gamma

/// What does not move of one column: scales, zero points and floors, by row; the range of codes.
struct Column {
  const float *scale, *zero, *floor;
  float lowest, highest;
};

// Loops of selects alone, without branches and without anything read through `this` or a capture: compilers make vector
// instructions of them, five times as fast.

/// Errors of soft rounding under `a`, and the logistic of `a`.
void errors(const Column& column, std::span<const float> a, const float* w, float* sigmoid, float* error) {
  with_widest_vectors([&]() QTOOL_INLINE {
    const float *scale = column.scale, *zero = column.zero, *floor = column.floor, *x = a.data();
    const float *weight = w, lowest = column.lowest, highest = column.highest;
    float *s = sigmoid, *to = error;
    const std::size_t m = a.size();
    QTOOL_INDEPENDENT
    for (std::size_t r = 0; r < m; ++r) {
      s[r] = vector_math::logistic(x[r]);
      const float raised = stretch * s[r] + offset, floored = raised < 0.0F ? 0.0F : raised;
      const float level = floor[r] + (floored > 1.0F ? 1.0F : floored);
      const float low = lowest - zero[r], high = highest - zero[r];
      const float above = level < low ? low : level;
      to[r] = (above > high ? high : above) * scale[r] - weight[r];
    }
  });
}

/// gradient: e H of a column, which becomes the gradient of the loss over `unit` and of
/// weight / (2 beta) (1 - |2 h - 1|^beta).
void gradients(const Column& column, const float* unit, std::span<const float> sigmoid, float weight, int beta,
               float* gradient) {
  std::vector<float> powers(sigmoid.size(), weight);
  with_widest_vectors([&]() QTOOL_INLINE {
    const float *scale = column.scale, *zero = column.zero, *floor = column.floor, *s = sigmoid.data(), *per = unit;
    const float lowest = column.lowest, highest = column.highest;
    float *power = powers.data(), *to = gradient;
    const std::size_t m = sigmoid.size();
    for (int k = 1; k < beta; ++k) {
      QTOOL_INDEPENDENT
      for (std::size_t r = 0; r < m; ++r) {
        const float way = 2 * (stretch * s[r] + offset) - 1;
        power[r] *= way < 0.0F ? -way : way;
      }
    }
    QTOOL_INDEPENDENT
    for (std::size_t r = 0; r < m; ++r) {
      const float up = stretch * s[r] + offset, level = floor[r] + up;
      const float below = level >= lowest - zero[r] ? 2 * to[r] * scale[r] / per[r] : 0.0F;
      const float loss = level <= highest - zero[r] ? below : 0.0F;
      const float slope = (loss + (up < 0.5F ? power[r] : -power[r])) * stretch * s[r] * (1 - s[r]);
      const float started = up > 0.0F ? slope : 0.0F;
      to[r] = up < 1.0F ? started : 0.0F;
    }
  });
}

class AdaRound final : public LayerPass {
  std::int64_t steps_ = 1000;
  double rate_ = 0.01, lambda_ = 0.01;
  std::string clip_ = "block";

 public:
  AdaRound() : LayerPass("ada_round") {}

  void options(Options& o) override {
    o("clip", clip_, "range of a scale: all of it, or the part with the least error of nearest codes through H",
      {"minmax", "block"});
    o("steps", steps_, "steps of Adam", 1, 1000000);
    o("rate", rate_, "how far a step goes", 1e-6, 1);
    o("lambda", lambda_, "weight of the term that drives every weight to one side", 0, 100);
    LayerPass::options(o);
  }

 private:
  Effort effort(bool) const override { return {0, 2.0 * static_cast<double>(steps_)}; }

  bool solve(const Problem& problem, Factors&, Found& found) const override {
    const NumberFormat& format = *problem.blank.like().format;
    if (!format.is_integer) return true;  // floor and ceiling are those of integers
    problem.start(clip_ == "block", found);
    Found learned{found.grid, learn(problem, found.grid)};
    learned.solved.loss = problem.errors(learned.solved.values);
    take_better(learned, found);
    return true;
  }

  Solved learn(const Problem& p, const Grid& grid) const {
    const std::size_t size = p.w.size();
    const auto m = static_cast<std::size_t>(p.m), n = static_cast<std::size_t>(p.n);
    const NumberFormat& format = *grid.like().format;
    const float lowest = format.lowest + (grid.like().narrow ? 1.0F : 0.0F);
    std::vector<float> h(p.h.begin(), p.h.end()), a(size), base(size), e(size), g(size);
    const std::vector<float> unit = p.units(grid);
    const auto column_of = [&](std::size_t c) {
      const auto plane = grid.plane(static_cast<std::int64_t>(c));
      return Column{grid.scale(plane).data(), grid.zero(plane).data(), base.data() + c * m, lowest, format.highest};
    };
    for (std::size_t c = 0; c < n; ++c) {
      const auto scale = grid.scale(grid.plane(static_cast<std::int64_t>(c)));
      for (std::size_t r = 0; r < m; ++r) {
        const std::size_t at = c * m + r;
        const float level = p.w[at] / scale[r], part = level - std::floor(level);
        base[at] = std::floor(level);
        const float x = std::clamp((part - offset) / stretch, 1e-4F, 1 - 1e-4F);
        a[at] = std::log(x / (1 - x));
      }
    }
    Adam adam(size);
    constexpr double warm_up = 0.2;
    std::vector<float> sigmoid(size);
    for (std::int64_t t = 1; t <= steps_; ++t) {
      const double done = static_cast<double>(t) / static_cast<double>(steps_);
      const bool warm = done < warm_up;
      const int beta = static_cast<int>(std::lround(2 + 18 * (1 - (done - warm_up) / (1 - warm_up))));
      const auto lambda = warm ? 0.0F : static_cast<float>(lambda_);
      p.each_column([&](std::size_t c) {
        const Column column = column_of(c);
        errors(column, {a.data() + c * m, m}, p.w.data() + c * m, sigmoid.data() + c * m, e.data() + c * m);
      });
      gemm(p.threads, false, false, p.n, p.m, p.n, 1.0F, h.data(), p.n, e.data(), p.m, 0.0F, g.data(), p.m);
      adam.begin(t, static_cast<float>(rate_));
      p.each_column([&](std::size_t c) {
        gradients(column_of(c), unit.data(), {sigmoid.data() + c * m, m}, 2 * lambda * static_cast<float>(beta), beta,
                  g.data() + c * m);
        adam.step(c * m, {g.data() + c * m, m}, {a.data() + c * m, m});
      });
    }
    Solved out;
    out.codes.resize(size);
    out.values.resize(size);
    for (std::size_t c = 0; c < n; ++c) {
      const auto plane = grid.plane(static_cast<std::int64_t>(c));
      const auto scale = grid.scale(plane), zero = grid.zero(plane);
      for (std::size_t r = 0; r < m; ++r) {
        const std::size_t at = c * m + r;
        const float up = a[at] >= 0 ? 1.0F : 0.0F;
        const float level = std::clamp(base[at] + up, lowest - zero[r], format.highest - zero[r]);
        out.codes[at] = static_cast<std::int16_t>(level + zero[r]);
        out.values[at] = level * scale[r];
      }
    }
    return out;
  }
};

}  // namespace

constinit const PassDef ada_round{"ada_round",
                                  "learns for every weight whether it is rounded up or down",
                                  "arXiv 2004.10568",
                                  Effect::annotate,
                                  1,
                                  make_pass<AdaRound>,
                                  /*needs_data=*/true,
                                  /*follows_rules=*/false,
                                  /*feeds_back=*/true};

}  // namespace qtool::pass

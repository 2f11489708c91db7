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
    for (std::int64_t t = 1; t <= steps_; ++t) {
      const double done = static_cast<double>(t) / static_cast<double>(steps_);
      const bool warm = done < warm_up;
      const int beta = static_cast<int>(std::lround(2 + 18 * (1 - (done - warm_up) / (1 - warm_up))));
      const auto lambda = warm ? 0.0F : static_cast<float>(lambda_);
      p.each_column([&](std::size_t c) {
        const auto plane = grid.plane(static_cast<std::int64_t>(c));
        const float *scale = grid.scale(plane).data(), *zero = grid.zero(plane).data();
        const float *from = base.data() + c * m, *w = p.w.data() + c * m, *x = a.data() + c * m;
        float* to = e.data() + c * m;
        with_widest_vectors([&]() QTOOL_INLINE {
          QTOOL_INDEPENDENT
          for (std::size_t r = 0; r < m; ++r) {
            float up = stretch * vector_math::logistic(x[r]) + offset;
            up = up < 0 ? 0.0F : up > 1 ? 1.0F : up;
            float level = from[r] + up;
            const float low = lowest - zero[r], high = format.highest - zero[r];
            level = level < low ? low : level > high ? high : level;
            to[r] = level * scale[r] - w[r];
          }
        });
      });
      gemm(p.threads, false, false, p.n, p.m, p.n, 1.0F, h.data(), p.n, e.data(), p.m, 0.0F, g.data(), p.m);
      adam.begin(t, static_cast<float>(rate_));
      p.each_column([&](std::size_t c) {
        const auto plane = grid.plane(static_cast<std::int64_t>(c));
        const float *scale = grid.scale(plane).data(), *zero = grid.zero(plane).data();
        const float *from = base.data() + c * m, *x = a.data() + c * m;
        float* to = g.data() + c * m;
        std::vector<float> far(m), power(m, 2 * lambda * static_cast<float>(beta));
        with_widest_vectors([&]() QTOOL_INLINE {
          QTOOL_INDEPENDENT
          for (std::size_t r = 0; r < m; ++r) {
            const float way = 2 * (stretch * vector_math::logistic(x[r]) + offset) - 1;
            far[r] = way < 0 ? -way : way;
          }
          for (int k = 1; k < beta; ++k) {
            QTOOL_INDEPENDENT
            for (std::size_t r = 0; r < m; ++r) power[r] *= far[r];
          }
          QTOOL_INDEPENDENT
          for (std::size_t r = 0; r < m; ++r) {
            const float s = vector_math::logistic(x[r]), up = stretch * s + offset, level = from[r] + up;
            const bool inside = level >= lowest - zero[r] && level <= format.highest - zero[r];
            const float loss = inside ? 2 * to[r] * scale[r] / unit[r] : 0.0F;
            const float aside = up < 0.5F ? power[r] : -power[r];
            to[r] = up > 0 && up < 1 ? (loss + aside) * stretch * s * (1 - s) : 0.0F;
          }
        });
        adam.step(c * m, {to, m}, {a.data() + c * m, m});
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

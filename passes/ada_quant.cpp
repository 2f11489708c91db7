// SPDX-License-Identifier: Apache-2.0
// ada_quant: weights are moved freely, and scales with them, until what they are rounded to does least to the outputs
// (AdaQuant, arXiv 2006.10518; layerwise-optimizers.md section 6), at the level of a layer, where the loss is e H e^T:
//
//   w^ = s (clamp(round(w / s + v)) ),  e = w^ - w,  straight through the rounding:
//   dL/dv = 2 s (H e) where not clamped,  dL/ds = 2 sum (H e) (level - (w / s) where not clamped)
//
// Adam over v and log s, in units that do not depend on the size of weights and inputs. Each row keeps the best codes
// and scales that it has seen. Zero points stay; biases are bias_correct's.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "passes/solve/adam.h"
#include "passes/solve/layer_pass.h"

namespace qtool::pass {
namespace {

using namespace solve;

class AdaQuant final : public LayerPass {
  std::int64_t steps_ = 1000;
  double rate_ = 0.01, scale_rate_ = 0.001;
  std::string clip_ = "block";

 public:
  AdaQuant() : LayerPass("ada_quant") {}

  void options(Options& o) override {
    o("clip", clip_, "range of a scale to begin with: all of it, or the part with the least error through H",
      {"minmax", "block"});
    o("steps", steps_, "steps of Adam", 1, 1000000);
    o("rate", rate_, "how far a step moves a weight, as a share of its scale", 1e-6, 1);
    o("scale_rate", scale_rate_, "how far a step moves a scale, as a share of it; 0: scales stay", 0, 1);
    LayerPass::options(o);
  }

 private:
  Effort effort(bool) const override { return {0, 2.0 * static_cast<double>(steps_)}; }

  bool solve(const Problem& problem, Factors&, Found& found) const override {
    if (!problem.blank.like().format->is_integer) return true;
    problem.start(clip_ == "block", found);
    learn(problem, found);
    return true;
  }

  void learn(const Problem& p, Found& found) const {
    const std::size_t size = p.w.size(), n = static_cast<std::size_t>(p.n), m = static_cast<std::size_t>(p.m);
    const auto planes = static_cast<std::size_t>(found.grid.planes());
    const NumberFormat& format = *found.grid.like().format;
    const float lowest = format.lowest + (found.grid.like().narrow ? 1.0F : 0.0F);
    Found now = found;
    const bool scales = p.free && scale_rate_ > 0;
    std::vector<float> h(p.h.begin(), p.h.end()), v(size), e(size), g(size), log_scale(planes * m), change(planes * m);
    const std::vector<float> unit = p.units(found.grid);
    const Grid start = found.grid;
    Adam weights(size), ranges(planes * m);
    std::vector<double> loss(m);
    for (std::int64_t t = 0; t <= steps_; ++t) {
      p.each_column([&](std::size_t c) {
        const auto plane = now.grid.plane(static_cast<std::int64_t>(c));
        const auto scale = now.grid.scale(plane), zero = now.grid.zero(plane);
        for (std::size_t r = 0; r < m; ++r) {
          const std::size_t at = c * m + r;
          const float level =
              std::clamp(std::nearbyint(p.w[at] / scale[r] + v[at]), lowest - zero[r], format.highest - zero[r]);
          now.solved.codes[at] = static_cast<std::int16_t>(level + zero[r]);
          now.solved.values[at] = level * scale[r];
          e[at] = now.solved.values[at] - p.w[at];
        }
      });
      gemm(p.threads, false, false, p.n, p.m, p.n, 1.0F, h.data(), p.n, e.data(), p.m, 0.0F, g.data(), p.m);
      std::fill(loss.begin(), loss.end(), 0.0);
      for (std::size_t c = 0; c < n; ++c) {
        for (std::size_t r = 0; r < m; ++r)
          loss[r] += static_cast<double>(e[c * m + r]) * static_cast<double>(g[c * m + r]);
      }
      now.solved.loss = loss;
      take_better(now, found);
      if (t == steps_) break;
      if (scales) std::fill(change.begin(), change.end(), 0.0F);
      // From here on g is the gradient of v.
      for (std::size_t c = 0; c < n; ++c) {
        const auto plane = now.grid.plane(static_cast<std::int64_t>(c));
        const auto scale = now.grid.scale(plane), zero = now.grid.zero(plane);
        float* by_scale = change.data() + static_cast<std::size_t>(plane) * m;
        for (std::size_t r = 0; r < m; ++r) {
          const std::size_t at = c * m + r;
          const float wish = p.w[at] / scale[r] + v[at], level = now.solved.values[at] / scale[r];
          const bool inside = wish >= lowest - zero[r] && wish <= format.highest - zero[r];
          const float slope = 2 * g[at] * scale[r] / unit[r];
          by_scale[r] += slope * (inside ? level - p.w[at] / scale[r] : level);
          g[at] = inside ? slope : 0.0F;
        }
      }
      const float left = 1 - static_cast<float>(t) / static_cast<float>(steps_);
      weights.begin(t + 1, static_cast<float>(rate_) * left);
      p.each_column([&](std::size_t c) { weights.step(c * m, {g.data() + c * m, m}, {v.data() + c * m, m}); });
      if (!scales) continue;
      ranges.begin(t + 1, static_cast<float>(scale_rate_) * left);
      ranges.step(0, change, log_scale);
      for (std::size_t k = 0; k < planes; ++k) {
        const auto from = start.scale(static_cast<std::int64_t>(k));
        const auto to = now.grid.scale(static_cast<std::int64_t>(k));
        for (std::size_t r = 0; r < m; ++r) to[r] = p.stored(from[r] * std::exp(log_scale[k * m + r]));
      }
    }
  }
};

}  // namespace

constinit const PassDef ada_quant{"ada_quant",
                                  "moves weights and scales until what they are rounded to does least to outputs",
                                  "arXiv 2006.10518",
                                  Effect::annotate,
                                  1,
                                  make_pass<AdaQuant>,
                                  /*needs_data=*/true,
                                  /*follows_rules=*/false,
                                  /*feeds_back=*/true};

}  // namespace qtool::pass

// SPDX-License-Identifier: Apache-2.0
// hqq: zero points that leave most weights of a group nearly exact and a few outliers wrong, without data
// (half-quadratic quantization, Badri and Shaji 2023; layerwise-optimizers.md section 8):
//
//   min over z of sum |W - s (q(W / s + z) - z)|^p,  p = 0.7, scales s fixed, by splitting off the large errors W_e:
//   W_e = shrink(W - s (q - z)),  z = mean(q - (W - W_e) / s)
//
// Fast kernels take whole zero points: those up to three steps from z are tried, with the scale as it is and with the
// two that keep an end of the range where z wants it, each moved on by least squares for its codes. The sum of |e|^3 of
// nearest codes decides among those whose squares sum to no more than the range's own do: squares alone let too many
// large weights go, which costs outputs more than it spares weights. Scales and zero points are all that is chosen;
// codes are the nearest ones, by this or a later pass.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "formats/ir/absent.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/solve/problem.h"

namespace qtool::pass {
namespace {

using namespace solve;

constexpr float power = 0.7F;
constexpr float reach = 2;  // zero points tried beyond the two neighbours of the real one
constexpr int refits = 8;

/// One group of weights of one row.
class Group {
 public:
  Group(const NumberFormat& format, std::int64_t most)
      : low_(format.lowest), high_(format.highest), w_(static_cast<std::size_t>(most)) {}

  float* begin(std::int64_t count) {
    count_ = static_cast<std::size_t>(count);
    return w_.data();
  }

  /// The real zero point at the least split objective.
  float split(float scale, float zero, int rounds) {
    float beta = 10, last = std::numeric_limits<float>::infinity(), best = zero;
    for (int k = 0; k < rounds; ++k) {
      double sum = 0, errors = 0;
      for (std::size_t i = 0; i < count_; ++i) {
        const float q = level(w_[i] / scale + zero);
        const float r = w_[i] / scale - (q - zero), size = std::abs(r);
        const float kept = size > 0 ? std::max(size - std::pow(size, power - 1) / beta, 0.0F) : 0.0F;
        sum += q - (w_[i] / scale - std::copysign(kept, r));
        errors += size;
      }
      const auto mean = static_cast<float>(errors / static_cast<double>(count_));
      if (!(mean < last)) break;
      last = mean;
      best = zero;
      zero = static_cast<float>(sum / static_cast<double>(count_));
      beta *= 1.01F;
    }
    return best;
  }

  struct Errors {
    double squares = 0, cubes = 0;
    float scale = 0;  // of least squares for the same codes
  };

  /// Of nearest codes under a whole zero point.
  Errors errors(float scale, float zero) const {
    Errors all;
    double products = 0, levels = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      const float q = level(std::nearbyint(w_[i] / scale) + zero) - zero;
      const double e = w_[i] - q * scale;
      all.squares += e * e;
      all.cubes += e * e * std::abs(e);
      products += static_cast<double>(q) * static_cast<double>(w_[i]);
      levels += static_cast<double>(q) * static_cast<double>(q);
    }
    all.scale = levels > 0 ? static_cast<float>(products / levels) : scale;
    return all;
  }

  float low() const { return low_; }
  float high() const { return high_; }

 private:
  float level(float x) const { return std::clamp(std::nearbyint(x), low_, high_); }

  float low_, high_;
  std::size_t count_ = 0;
  std::vector<float> w_;
};

class Hqq final : public Pass {
  std::int64_t group_ = 0, rounds_ = 20;

 public:
  void options(Options& o) override {
    o("group", group_, "weights that share a scale, in place of what was assigned; 0: as assigned", 0, 1 << 20);
    o("rounds", rounds_, "rounds of splitting for each group", 1, 1000);
  }

  void run(Graph& graph, PassContext& ctx) override {
    for (Weight& weight : open_weights(graph, ctx)) {
      ctx.check_stop();
      if (!can(graph, ctx, *weight.spec, weight.places[0].node)) continue;
      prepare(group_, weight);
      std::vector<double> before(static_cast<std::size_t>(weight.layer.matrices())), after(before), whole(before);
      bool free = true;
      for (std::int64_t i = 0; i < weight.layer.matrices(); ++i) {
        const Problem problem(ctx.threads, weight, i, Tensor());
        free = free && problem.free;
        if (!free) break;
        const auto k = static_cast<std::size_t>(i);
        Found found{problem.blank, {}};
        problem.fit({}, found.grid);
        solve(problem, found.grid, before[k], after[k], whole[k]);
        problem.store(found, false, *weight.spec);
      }
      if (!free) {
        ctx.journal.skip("hqq", label(graph, weight.places[0].node), "its scales are shared or not in float32");
        continue;
      }
      for (const WeightPlace& p : weight.places) use_at(graph, p).quant = weight.spec;
      const auto sum = [](const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); };
      const double all = sum(whole);
      Json fact = Json::object();
      fact.set("pass", "hqq").set("node", label(graph, weight.places[0].node));
      fact.set("weight_error_nearest", all > 0 ? sum(before) / all : 0.0);
      fact.set("weight_error", all > 0 ? sum(after) / all : 0.0);
      ctx.journal.fact("change", std::move(fact));
    }
  }

  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    for (const Weight& weight : open_weights(graph, ctx)) {
      if (!can(graph, ctx, *weight.spec, weight.places[0].node)) continue;
      QuantSpec& spec = *weight.spec;
      regroup(group_, spec);
      set_some_scales(spec, weight.weight.shape());
      forecast.weights.push_back({"search", weight.weight.count()});
      for (const WeightPlace& p : weight.places) use_at(graph, p).quant = weight.spec;
    }
  }

 private:
  static bool can(const Graph& graph, PassContext& ctx, const QuantSpec& spec, NodeId n) {
    const auto skip = [&](std::string_view why) {
      ctx.journal.skip("hqq", label(graph, n), why);
      return false;
    };
    if (!spec.scale.empty()) return skip("it has scales already");
    if (spec.symmetric || !spec.format->is_integer) return skip("its format has no zero points to choose");
    return true;
  }

  void solve(const Problem& p, Grid& grid, double& before, double& after, double& whole) const {
    const std::int64_t most = p.group == 0 ? p.n : p.group;
    std::vector<double> sums[3];
    for (auto& s : sums) s.resize(static_cast<std::size_t>(p.m));
    p.threads.for_each(p.m, 16, [&](std::int64_t first, std::int64_t last) {
      Group group(*p.blank.like().format, most);
      for (std::int64_t r = first; r < last; ++r) {
        const auto row = static_cast<std::size_t>(r);
        for (std::int64_t g = 0; g < grid.planes(); ++g) {
          const std::int64_t begin = p.planes.columns[static_cast<std::size_t>(g)];
          const std::int64_t end = std::min(begin + most, p.n);
          float* w = group.begin(end - begin);
          for (std::int64_t c = begin; c < end; ++c) {
            w[c - begin] = p.w[static_cast<std::size_t>(c * p.m + r)];
            sums[2][row] += static_cast<double>(w[c - begin]) * static_cast<double>(w[c - begin]);
          }
          float &scale = grid.scale(g)[row], &zero = grid.zero(g)[row];
          sums[0][row] += group.errors(scale, zero).squares;
          choose(p, group, scale, zero);
          sums[1][row] += group.errors(scale, zero).squares;
        }
      }
    });
    before = std::accumulate(sums[0].begin(), sums[0].end(), 0.0);
    after = std::accumulate(sums[1].begin(), sums[1].end(), 0.0);
    whole = std::accumulate(sums[2].begin(), sums[2].end(), 0.0);
  }

  void choose(const Problem& p, Group& group, float& scale, float& zero) const {
    const float own = scale, first = zero, wish = group.split(own, zero, static_cast<int>(rounds_));
    const double most = group.errors(scale, zero).squares;
    double least = std::numeric_limits<double>::infinity();
    const auto attempt = [&](float s, float z) {
      double last = std::numeric_limits<double>::infinity();
      for (int k = 0; k <= refits; ++k) {
        s = p.stored(s);
        if (!(s > 0) || !std::isfinite(s)) return;
        const Group::Errors now = group.errors(s, z);
        if (!(now.cubes < last)) return;
        last = now.cubes;
        if (now.cubes < least && now.squares <= most) {
          least = now.cubes;
          scale = s;
          zero = z;
        }
        s = now.scale;
      }
    };
    attempt(own, first);
    for (float near = std::floor(wish) - reach; near <= std::ceil(wish) + reach; ++near) {
      if (near < group.low() || near > group.high()) continue;
      attempt(own, near);
      attempt(own * (wish - group.low()) / (near - group.low()), near);
      attempt(own * (group.high() - wish) / (group.high() - near), near);
    }
  }
};

}  // namespace

constinit const PassDef hqq{"hqq",
                            "scales and zero points that few outliers pay for, without data",
                            "Half-Quadratic Quantization (2023)",
                            Effect::annotate,
                            2,
                            make_pass<Hqq>};

}  // namespace qtool::pass

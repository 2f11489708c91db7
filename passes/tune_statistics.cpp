// SPDX-License-Identifier: Apache-2.0
// tune_statistics: mean and variance of what every quantized layer puts out become those of the float layer (statistics
// tuning, arXiv 2006.10518; layerwise-optimizers.md section 6). With q what a channel puts out without its bias in the
// quantized model, f in the float model:
//
//   q' = a q + b,   a = sqrt(var f / var q),   b = mean f - a mean q
//
// a goes into the scales of the channel, whose codes stay, b into its bias. A layer without bias gets the power of the
// float layer, a = sqrt(mean f^2 / mean q^2). Layers in the order of the graph, each on the inputs that those before it
// give it as tuned. A channel is changed only where its error, mean (q' - f)^2 as measured with the scales and the bias
// as they are stored, falls.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/ir/quant.h"
#include "formats/lock.h"
#include "formats/number/half.h"
#include "passes/biases.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/solve/layer.h"
#include "passes/solve/output_pairs.h"

namespace qtool::pass {
namespace {

using solve::PairSums;

constexpr const char* name = "tune_statistics";

struct Site {
  Product product;
  std::optional<BiasPlace> bias;  // null: b has nowhere to go
  bool scalable = false;          // a has: each channel has scales of its own
};

/// What a channel is changed by.
struct Tuned {
  std::vector<double> factor, shift;
};

class TuneStatistics final : public Pass {
  std::int64_t samples_ = 64;

 public:
  void options(Options& o) override {
    o("samples", samples_, "samples of the calibration data to look at; 0: all", 0, 1e9);
  }

  void run(Graph& graph, PassContext& ctx) override {
    if (!ctx.calibration.has_data()) {
      throw Error(Code::calibration, "means and variances are measured on calibration data, and there are none",
                  "name data with --calib or in the recipe, or leave the step out");
    }
    const std::map<NodeId, Site> sites = find_sites(graph, ctx);
    if (sites.empty()) return;
    const Dataset& data = ctx.calibration.data();
    if (!data.state().empty()) {
      for (const auto& [id, site] : sites) skip(graph, id, ctx, "batches hand state on to one another");
      return;
    }
    const Graph floats = graph;  // as long as no bias is moved
    const std::int64_t batches = batches_for(data, samples_);
    std::set<NodeId> held;
    for (const auto& [id, site] : sites) held.insert(id);
    solve::Stages quantized(graph, Reading::quantized, data, batches, held, ctx.threads);
    solve::Stages reference(graph, Reading::reference, data, batches, held, ctx.threads);
    std::int64_t done = 0;
    while (!quantized.ready().empty()) {
      for (const NodeId id : quantized.ready()) {
        ctx.check_stop();
        tune(graph, sites.at(id), ctx, [&](const Graph& now) {
          return solve::output_pairs(now, quantized, floats, reference, sites.at(id).product, ctx.threads);
        });
        ctx.journal.progress({name, ++done, static_cast<std::int64_t>(sites.size())});
      }
      reference.advance(floats);
      quantized.advance(graph);
    }
  }

  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    const std::map<NodeId, Site> sites = find_sites(graph, ctx);
    if (sites.empty()) return;
    std::vector<ValueId> seen;
    for (const auto& [id, site] : sites) seen.push_back(graph[id].outputs[0]);
    // Each layer runs before it is tuned, behind that, and for those after it.
    for (const Reading reading : {Reading::reference, Reading::quantized})
      forecast.sweeps.push_back({name, graph, reading, samples_, 3, seen, "sum"});
    for (const auto& [id, site] : sites) {
      if (site.bias) write_bias(graph, *site.bias, bias_at(graph, *site.bias), ctx.target);
    }
  }

 private:
  static void skip(const Graph& graph, NodeId id, PassContext& ctx, std::string_view why) {
    ctx.journal.skip(name, label(graph, id), why);
  }

  static std::map<NodeId, Site> find_sites(const Graph& graph, PassContext& ctx) {
    std::map<NodeId, Site> sites;
    const Links links(graph);
    const std::set<std::string> moved = moved_biases(ctx.journal);
    for (const NodeId id : graph.order()) {
      const auto product = product_of(graph, id);
      if (!product || !ctx.selects(id)) continue;
      const Use& weight = graph[id].inputs[Product::weight_input];
      if (!weight.quant) continue;
      if (weight.quant->codes.empty()) {
        skip(graph, id, ctx, "its codes are not chosen yet: let the step come behind round_nearest");
        continue;
      }
      if (moved.contains(label(graph, id))) {
        skip(graph, id, ctx, bias_was_moved);
        continue;
      }
      std::string why;
      Site site{*product, bias_place(graph, links, *product, why), scales_are_own(graph, *product)};
      site.scalable = site.scalable && links.consumers(weight.value).size() == 1;
      if (product->takes_bias && !site.bias) {  // it is there, and nobody knows what it adds
        skip(graph, id, ctx, why);
      } else if (!site.bias && !site.scalable) {
        skip(graph, id, ctx, "it has no bias, and its channels have no scales of their own");
      } else {
        sites.emplace(id, site);
      }
    }
    return sites;
  }

  static bool scales_are_own(const Graph& graph, const Product& product) {
    const QuantSpec& spec = *graph[product.node].inputs[Product::weight_input].quant;
    const bool plain = spec.scale_format == nullptr && spec.alternative == nullptr && spec.second_scale.empty() &&
                       spec.scale_mean.empty() && spec.minimum.empty() && spec.ranges.empty() && !spec.scale.empty();
    return plain && solve::Layer(graph, product).planes(spec.grain).own;
  }

  template <class Measure>
  static void tune(Graph& graph, const Site& site, PassContext& ctx, const Measure& measure) {
    const NodeId id = site.product.node;
    const PairSums before = measure(graph);
    if (before.count == 0 || !is_finite(before)) {
      return skip(graph, id, ctx, before.count == 0 ? "no output of it was seen" : "its outputs are not finite");
    }
    const auto channels = static_cast<std::size_t>(site.product.out_channels());
    const std::vector<double> was = site.bias ? bias_at(graph, *site.bias) : std::vector<double>(channels);
    const std::vector<double> errors = errors_of(before, std::vector<double>(channels));
    Tuned tuned = wished(before, site);
    Graph tried = graph;
    if (!apply(tried, site, was, tuned, ctx.target)) return skip(graph, id, ctx, "the new bias does not fit its type");
    std::vector<double> shift = site.bias ? bias_at(tried, *site.bias) : was;
    std::transform(shift.begin(), shift.end(), was.begin(), shift.begin(), std::minus<>());
    std::vector<double> now = errors_of(measure(tried), shift);
    for (std::size_t o = 0; o < channels; ++o) {
      if (now[o] < errors[o]) continue;
      tuned.factor[o] = 1;
      tuned.shift[o] = 0;
      now[o] = errors[o];
    }
    apply(graph, site, was, tuned, ctx.target);
    tell(graph, site, before, errors, now, tuned, ctx);
  }

  static bool is_finite(const PairSums& s) {
    const auto all = [](const std::vector<double>& v) {
      return std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); });
    };
    return all(s.qq) && all(s.ff);
  }

  /// mean (q + shift - f)^2 of each channel.
  static std::vector<double> errors_of(const PairSums& s, const std::vector<double>& shift) {
    std::vector<double> errors(s.q.size());
    const auto n = static_cast<double>(s.count);
    for (std::size_t o = 0; o < errors.size(); ++o) {
      errors[o] = (s.qq[o] - 2 * s.qf[o] + s.ff[o] + 2 * shift[o] * (s.q[o] - s.f[o])) / n + shift[o] * shift[o];
    }
    return errors;
  }

  static Tuned wished(const PairSums& s, const Site& site) {
    constexpr double least = 1e-12;  // of the power: less is rounding
    const std::size_t channels = s.q.size();
    const auto n = static_cast<double>(s.count);
    Tuned t{std::vector<double>(channels, 1.0), std::vector<double>(channels)};
    for (std::size_t o = 0; o < channels; ++o) {
      const double q = site.bias ? s.q[o] / n : 0, f = site.bias ? s.f[o] / n : 0;
      const double qq = s.qq[o] / n - q * q, qf = s.qf[o] / n - q * f, ff = s.ff[o] / n - f * f;
      if (site.scalable && qq > least * s.qq[o] / n && ff > least * s.ff[o] / n) {
        const double a = std::sqrt(ff / qq);
        if (a * a * qq - 2 * a * qf < qq - 2 * qf) t.factor[o] = a;
      }
      t.shift[o] = f - t.factor[o] * q;
    }
    return t;
  }

  static bool apply(Graph& graph, const Site& site, const std::vector<double>& was, const Tuned& tuned,
                    const Target& target) {
    if (site.bias) {
      std::vector<double> bias = was;
      std::transform(bias.begin(), bias.end(), tuned.shift.begin(), bias.begin(), std::plus<>());
      if (!write_bias(graph, *site.bias, bias, target)) return false;
    }
    const bool scales = std::any_of(tuned.factor.begin(), tuned.factor.end(), [](double a) { return a != 1; });
    if (!scales) return true;
    Use& use = graph[site.product.node].inputs[Product::weight_input];
    const solve::Layer layer(graph, site.product);
    const bool half = graph[use.value].data.dtype() == DType::f16;
    auto spec = std::make_shared<QuantSpec>(*use.quant);
    const auto scale = spec->scale.write<float>();
    const std::vector<std::int64_t> columns = layer.planes(spec->grain).columns;
    for (std::int64_t i = 0; i < layer.matrices(); ++i) {
      for (std::int64_t r = 0; r < layer.rows(); ++r) {
        const double a = tuned.factor[static_cast<std::size_t>(i * layer.rows() + r)];
        for (const std::int64_t c : columns) {
          float& s = scale[layer.scale(spec->grain, i, r, c)];
          const auto scaled = static_cast<float>(a * static_cast<double>(s));
          const float stored = half ? f16_to_float(float_to_f16(scaled)) : scaled;
          if (stored > 0 && std::isfinite(stored)) s = stored;
        }
      }
    }
    use.quant = std::move(spec);
    return true;
  }

  static void tell(const Graph& graph, const Site& site, const PairSums& sums, const std::vector<double>& errors,
                   const std::vector<double>& now, const Tuned& tuned, PassContext& ctx) {
    const std::string node = label(graph, site.product.node);
    double before = 0, after = 0, power = 0;
    for (std::size_t o = 0; o < errors.size(); ++o) {
      before += errors[o];
      after += now[o];
      power += sums.ff[o] / static_cast<double>(sums.count);
    }
    const auto [low, high] = std::minmax_element(tuned.factor.begin(), tuned.factor.end());
    Json layer = Json::object(), change = Json::object(), fold = Json::object();
    layer.set("pass", name).set("node", node).set("rows", sums.count);
    layer.set("error_before", power > 0 ? before / power : 0.0).set("error", power > 0 ? after / power : 0.0);
    ctx.journal.fact("layer", std::move(layer));
    change.set("pass", name).set("node", node).set("least", *low).set("most", *high);
    change.set("what", "outputs made to vary as in float");
    ctx.journal.fact("change", std::move(change));
    fold.set("pass", name).set("node", node);
    if (site.bias) fold.set("shift", exact_text(tuned.shift));
    if (site.scalable) fold.set("factors", exact_text(tuned.factor));
    ctx.journal.fact("fold", std::move(fold));
  }
};

}  // namespace

constinit const PassDef tune_statistics{"tune_statistics",
                                        "mean and variance of outputs as in float, by scales and biases",
                                        "arXiv 2006.10518",
                                        Effect::lossy,
                                        1,
                                        make_pass<TuneStatistics>,
                                        /*needs_data=*/true,
                                        /*follows_rules=*/false,
                                        /*feeds_back=*/true};

}  // namespace qtool::pass

// SPDX-License-Identifier: Apache-2.0
// bias_correct: rounding weights moves the mean of what a layer puts out; its bias gives that back (Nagel et al.,
// arXiv 1906.04721, section 4.2; layerwise-optimizers.md 9). W^ are the weights as rounded:
//
//   analytic:    c[o] -= sum_i (sum_taps (W^ - W)[o,i]) E[x_i]   one sweep over the data for all layers
//   batch_norm:  the same without data, E[x] from the batch normalization behind x (passes/normals.h)
//   measured:    c[o] += E[y_o] - E[y^_o]                        one sweep per layer, each after those before it
//
// Measured, E[x] is taken in the quantized reading. The first two treat every tap of a convolution as if it saw the
// mean of its channel: at zero padding that is an approximation (of a border's share), and for ConvTranspose so is the
// share 1/stride of the taps that reach an output. The measured form has neither, and also takes back what earlier
// layers left.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

#include "calib/dataset_run.h"
#include "calib/observe.h"
#include "calib/statistics.h"
#include "formats/base/error.h"
#include "formats/ir/quant.h"
#include "formats/lock.h"
#include "passes/biases.h"
#include "passes/normals.h"
#include "passes/pass.h"
#include "passes/product.h"
#include "passes/rewrite.h"

namespace qtool::pass {
namespace {

class BiasCorrect final : public Pass {
  std::string method_ = "analytic";
  std::int64_t samples_ = 16;  // a mean over samples and positions has settled by then

  std::int64_t batches(const PassContext& ctx) const { return batches_for(ctx.calibration.data(), samples_); }

 public:
  void options(Options& o) override {
    o("method", method_,
      "analytic: from the means of the inputs, one sweep; measured: output means, a sweep per layer; batch_norm: from "
      "means of the inputs that batch normalizations tell, without data",
      {"analytic", "measured", "batch_norm"});
    o("samples", samples_, "samples of the calibration data to look at; 0: all", 0, 1e9);
  }

  bool does_without_data() const override { return method_ == "batch_norm"; }

  void run(Graph& graph, PassContext& ctx) override {
    if (!does_without_data() && !ctx.calibration.has_data()) {
      throw Error(Code::calibration,
                  "the means that it gives back are measured on calibration data, and there are none",
                  "name data with --calib or in the recipe, set `method: batch_norm`, or leave the step out");
    }
    const std::vector<BiasPlace> sites = find_sites(graph, ctx);
    if (sites.empty()) return;
    method_ == "measured" ? measured(graph, sites, ctx) : analytic(graph, sites, ctx);
  }

  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    const std::vector<BiasPlace> sites = find_sites(graph, ctx);
    if (sites.empty()) return;
    std::vector<ValueId> seen;
    for (const BiasPlace& site : sites) {
      const Node& node = graph[site.product.node];
      seen.push_back(method_ == "analytic" ? node.inputs[0].value : node.outputs[0]);
    }
    if (method_ == "analytic") {
      forecast.sweeps.push_back({"bias_correct", graph, Reading::quantized, samples_, 1, std::move(seen), "sum"});
    } else if (method_ == "measured") {
      const auto sweeps = static_cast<std::int64_t>(sites.size());
      forecast.sweeps.push_back({"bias_correct", graph, Reading::reference, samples_, 1, seen, "sum"});
      forecast.sweeps.push_back({"bias_correct", graph, Reading::quantized, samples_, sweeps, {}, "sum"});
    }
    const Told told = method_ == "batch_norm" ? told_means(graph, sites, ctx) : Told{};
    for (std::size_t s = 0; s < sites.size(); ++s) {
      const bool turned = graph[sites[s].product.node].attrs.get("transA", std::int64_t{0}) != 0;
      if (method_ != "measured" && turned) {
        skip(graph, sites[s].product.node, ctx, other_axis);
      } else if (method_ == "batch_norm" && told.means[s].empty()) {
        skip(graph, sites[s].product.node, ctx, told.why[s]);
      } else {
        write_bias(graph, sites[s], bias_at(graph, sites[s]), ctx.target);  // whatever it will hold, it will be there
      }
    }
  }

 private:
  static constexpr const char* other_axis = "its input channels are not on the axis of the weight";

  /// Means of the inputs of each place, by channel; empty: none, and why.
  struct Told {
    std::vector<std::vector<double>> means;
    std::vector<std::string> why;
  };

  static void skip(const Graph& graph, NodeId id, PassContext& ctx, std::string_view why) {
    ctx.journal.skip("bias_correct", label(graph, id), why);
  }

  static std::vector<BiasPlace> find_sites(const Graph& graph, PassContext& ctx) {
    std::vector<BiasPlace> sites;
    const Links links(graph);
    const std::set<std::string> moved = moved_biases(ctx.journal);
    for (const NodeId id : graph.order()) {
      const auto product = product_of(graph, id);
      if (!product || !ctx.selects(id) || !graph[id].inputs[Product::weight_input].quant) continue;
      std::string why = bias_was_moved;
      const auto site = moved.contains(label(graph, id)) ? std::nullopt : bias_place(graph, links, *product, why);
      site ? sites.push_back(*site) : skip(graph, id, ctx, why);
    }
    return sites;
  }

  static Told told_means(const Graph& graph, const std::vector<BiasPlace>& sites, PassContext& ctx) {
    Told told;
    const Links links(graph);
    const std::map<std::string, Normals> noted = noted_normals(ctx.journal);
    for (const BiasPlace& site : sites) {
      std::string why;
      auto means = normal_means(graph, links, site.product, noted, ctx.threads, why);
      told.means.push_back(means ? std::move(*means) : std::vector<double>{});
      told.why.push_back(std::move(why));
    }
    return told;
  }

  Told measured_means(const Graph& graph, const std::vector<BiasPlace>& sites, PassContext& ctx) const {
    std::vector<Calibration::MeanRequest> inputs;
    for (const BiasPlace& site : sites) {
      const Use& x = graph[site.product.node].inputs[0];
      inputs.push_back({x.value, x.quant, site.product.in_channels(), site.product.spatial ? 1 : -1});
    }
    return {ctx.calibration.means(graph, Reading::quantized, batches(ctx), inputs),
            std::vector<std::string>(sites.size(), other_axis)};
  }

  void analytic(Graph& graph, const std::vector<BiasPlace>& sites, PassContext& ctx) const {
    const Told told = method_ == "analytic" ? measured_means(graph, sites, ctx) : told_means(graph, sites, ctx);
    std::vector<std::vector<double>> shifts(sites.size());
    ctx.threads.for_each(static_cast<std::int64_t>(sites.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto s = static_cast<std::size_t>(begin); s < static_cast<std::size_t>(end); ++s) {
        const Product& p = sites[s].product;
        const bool turned = graph[p.node].attrs.get("transA", std::int64_t{0}) != 0;
        if (!turned && !told.means[s].empty()) shifts[s] = shift_from_inputs(graph, p, told.means[s]);
      }
    });
    for (std::size_t s = 0; s < sites.size(); ++s) {
      if (shifts[s].empty()) {
        skip(graph, sites[s].product.node, ctx, told.means[s].empty() ? told.why[s] : other_axis);
        continue;
      }
      apply(graph, sites[s], shifts[s], ctx);
    }
  }

  static std::vector<double> shift_from_inputs(const Graph& graph, const Product& p, const std::vector<double>& mean) {
    const Node& node = graph[p.node];
    const Use& use = node.inputs[Product::weight_input];
    const Tensor w32 = to_f32(graph[use.value].data), q32 = fake_quantize(w32, *use.quant);
    const auto w = w32.read<float>(), q = q32.read<float>();
    double share = node.op == "Gemm" ? static_cast<double>(node.attrs.get("alpha", 1.0F)) : 1.0;
    if (node.op == "ConvTranspose") {
      for (const std::int64_t s : node.attrs.get("strides", std::vector<std::int64_t>{})) {
        share /= static_cast<double>(std::max<std::int64_t>(s, 1));
      }
    }
    std::vector<double> shift(static_cast<std::size_t>(p.out_channels()));
    p.for_each([&](std::size_t out, std::size_t in, std::size_t e) {
      shift[out] -= share * (static_cast<double>(q[e]) - w[e]) * mean[in];
    });
    return shift;
  }

  void measured(Graph& graph, const std::vector<BiasPlace>& sites, PassContext& ctx) const {
    std::vector<Calibration::MeanRequest> outputs;
    for (const BiasPlace& site : sites) {
      const Product& p = site.product;
      outputs.push_back({graph[p.node].outputs[0], nullptr, p.out_channels(), p.spatial ? 1 : -1});
    }
    const auto wished = ctx.calibration.means(graph, Reading::reference, batches(ctx), outputs);
    for (std::size_t s = 0; s < sites.size(); ++s) {
      ctx.journal.progress({"bias_correct", static_cast<std::int64_t>(s), static_cast<std::int64_t>(sites.size())});
      std::vector<double> shift = wished[s];
      const std::vector<double> now =
          ctx.calibration.means(graph, Reading::quantized, batches(ctx), {&outputs[s], 1}).front();
      if (shift.empty() || now.size() != shift.size()) {
        skip(graph, sites[s].product.node, ctx, "its output channels are not on the axis of the weight");
        continue;
      }
      for (std::size_t o = 0; o < shift.size(); ++o) shift[o] -= now[o];
      apply(graph, sites[s], shift, ctx);
    }
  }

  static void apply(Graph& graph, const BiasPlace& site, const std::vector<double>& shift, PassContext& ctx) {
    const Product& p = site.product;
    std::vector<double> bias = bias_at(graph, site);
    double largest = 0;
    for (std::size_t o = 0; o < bias.size(); ++o) {
      bias[o] += shift[o];
      largest = std::max(largest, std::abs(shift[o]));
    }
    if (!write_bias(graph, site, bias, ctx.target)) {
      skip(graph, p.node, ctx, "the corrected bias does not fit its type");
      return;
    }
    Json fact = Json::object(), fold = Json::object();
    fact.set("pass", "bias_correct").set("node", label(graph, p.node)).set("largest_shift", largest);
    ctx.journal.fact("change", std::move(fact));
    fold.set("pass", "bias_correct").set("node", label(graph, p.node)).set("shift", exact_text(shift));
    ctx.journal.fact("fold", std::move(fold));
  }
};

}  // namespace

constinit const PassDef bias_correct{"bias_correct",
                                     "give back the mean that rounding of weights took",
                                     "arXiv 1906.04721",
                                     Effect::lossy,
                                     3,
                                     make_pass<BiasCorrect>,
                                     true};

}  // namespace qtool::pass

// SPDX-License-Identifier: Apache-2.0
// equalize_layers: cross-layer equalization (Nagel et al., Data-Free Quantization through Weight Equalization and Bias
// Correction, ICCV 2019, section 4.1). Between two products with nothing but positively homogeneous steps per channel,
// f(s x) = s f(x), a factor may leave the rows of the first and enter the columns of the second. With
//   s_i = sqrt(r1_i / r2_i),  r1_i = max |W1[i, :]|,  r2_i = max |W2[:, i]|
// both get the range sqrt(r1_i r2_i): a scale per tensor then fits all channels alike. Pairs are evened out in rounds
// until nothing moves, which gives chains through depthwise convolutions the geometric mean of all their ranges.
#include <algorithm>
#include <cmath>
#include <map>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/lock.h"
#include "passes/pass.h"
#include "passes/product.h"
#include "recipes/reader/where.h"

namespace qtool::pass {
namespace {

/// A product with the largest magnitude of its weight between every output and input channel, and the factors that its
/// channels have collected.
struct Layer {
  Product product;
  std::optional<AddedBias> added;
  std::vector<double> bias;
  std::vector<float> largest;  // [a, b] as the weight is stored
  std::vector<double> by_output, by_input;

  /// f(output channel, input channel, largest magnitude with today's factors).
  template <class F>
  void for_each_pair(const F& f) const {
    Product flat = product;
    flat.taps = 1;
    flat.for_each([&](std::size_t out, std::size_t in, std::size_t e) {
      f(out, in, static_cast<double>(largest[e]) * by_output[out] * by_input[in]);
    });
  }
  std::vector<double> output_ranges() const {
    std::vector<double> r(by_output.size());
    for_each_pair([&](std::size_t out, std::size_t, double w) { r[out] = std::max(r[out], w); });
    return r;
  }
  std::vector<double> input_ranges() const {
    std::vector<double> r(by_input.size());
    for_each_pair([&](std::size_t, std::size_t in, double w) { r[in] = std::max(r[in], w); });
    return r;
  }
};

/// Whether the step computes every channel on its own (axis 1 of an image, the last one otherwise) and f(s x) = s f(x).
bool is_homogeneous(const Graph& graph, const Node& node, bool spatial) {
  if (!node.domain.empty() || node.outputs.size() != 1) return false;
  if (node.op == "Relu" || node.op == "LeakyRelu" || node.op == "Identity") return true;
  if (node.op == "PRelu") return fixed_constant(graph, input_of(node, 1)) != nullptr;
  return spatial && (node.op == "MaxPool" || node.op == "AveragePool" || node.op == "GlobalAveragePool" ||
                     node.op == "GlobalMaxPool");
}

class EqualizeLayers final : public Pass {
  std::int64_t rounds_ = 20;
  double tolerance_ = 1e-3;

 public:
  void options(Options& o) override {
    o("rounds", rounds_, "times that all pairs are visited, at most", 1, 1000);
    o("tolerance", tolerance_, "stop when no factor of a round is further from 1 than this", 1e-9, 1);
  }

  void run(Graph& graph, PassContext& ctx) override {
    const Links links(graph);
    std::map<NodeId, Layer> layers;
    std::vector<std::pair<NodeId, NodeId>> pairs;
    for (const NodeId n : graph.order()) {
      const auto next = follower(graph, links, n, ctx);
      if (!next || !add_layer(graph, links, n, layers) || !add_layer(graph, links, *next, layers)) continue;
      if (layers.at(n).by_output.size() != layers.at(*next).by_input.size()) continue;
      pairs.emplace_back(n, *next);
    }
    double moved = 0;
    for (std::int64_t round = 0; round < rounds_; ++round) {
      ctx.check_stop();
      moved = 0;
      for (const auto& [first, second] : pairs) moved = std::max(moved, even_out(layers.at(first), layers.at(second)));
      if (moved < tolerance_) break;
    }
    for (const auto& [first, second] : pairs) tell(graph, ctx, first, second, layers);
    for (const auto& [n, layer] : layers) apply(graph, layer, ctx);
  }

 private:
  /// The product that alone reads what `n` computes, through homogeneous steps, and that may be changed with it.
  static std::optional<NodeId> follower(const Graph& graph, const Links& links, NodeId n, const PassContext& ctx) {
    const auto first = product_of(graph, n);
    if (!first || !ctx.selects(n) || has_decisions(graph, links, n)) return std::nullopt;
    const auto added = added_bias(graph, links, *first);
    NodeId at = added ? added->node : n;
    for (;;) {
      if (has_decisions(graph, links, at)) return std::nullopt;
      const auto reader = sole_consumer(graph, links, graph[at].outputs[0]);
      if (!reader || reader->input != 0) return std::nullopt;
      at = reader->node;
      if (const auto second = product_of(graph, at)) {
        const bool turned = graph[at].attrs.get("transA", std::int64_t{0}) != 0;
        const bool fits = second->spatial == first->spatial && !turned && ctx.selects(at);
        return fits && !has_decisions(graph, links, at) ? std::optional(at) : std::nullopt;
      }
      if (!is_homogeneous(graph, graph[at], first->spatial)) return std::nullopt;
    }
  }

  /// False when the product's bias is not one number per channel.
  static bool add_layer(const Graph& graph, const Links& links, NodeId n, std::map<NodeId, Layer>& layers) {
    if (layers.contains(n)) return true;
    Layer layer;
    layer.product = *product_of(graph, n);
    layer.added = added_bias(graph, links, layer.product);
    auto bias = layer.added ? per_channel(graph[graph[layer.added->node].inputs[layer.added->input].value].data,
                                          layer.product.out_channels(), 8, -1)
                            : bias_of(graph, layer.product);
    if (!bias) return false;
    layer.bias = std::move(*bias);
    const Tensor weight = to_f32(graph[graph[n].inputs[Product::weight_input].value].data);
    const auto taps = static_cast<std::size_t>(layer.product.taps);
    layer.largest.resize(static_cast<std::size_t>(weight.count()) / taps);
    if (!is_absent(weight)) {  // planned, all factors stay 1
      const auto values = weight.read<float>();
      for (std::size_t i = 0; i < values.size(); ++i) {
        layer.largest[i / taps] = std::max(layer.largest[i / taps], std::fabs(values[i]));
      }
    }
    layer.by_output.assign(static_cast<std::size_t>(layer.product.out_channels()), 1.0);
    layer.by_input.assign(static_cast<std::size_t>(layer.product.in_channels()), 1.0);
    layers.emplace(n, std::move(layer));
    return true;
  }

  /// The largest distance of a factor from 1. Channels that one side does not use keep theirs.
  static double even_out(Layer& first, Layer& second) {
    constexpr double most = 1e4;  // of a factor: float16 weights must survive it
    const std::vector<double> r1 = first.output_ranges(), r2 = second.input_ranges();
    double moved = 0;
    for (std::size_t c = 0; c < r1.size(); ++c) {
      const double s = std::sqrt(r1[c] / r2[c]);
      if (!(s > 0) || !std::isfinite(s)) continue;
      const double all = first.by_output[c] / s;
      if (all > most || all < 1 / most) continue;
      first.by_output[c] = all;
      second.by_input[c] *= s;
      moved = std::max(moved, std::fabs(s - 1));
    }
    return moved;
  }

  static void tell(const Graph& graph, PassContext& ctx, NodeId first, NodeId second,
                   const std::map<NodeId, Layer>& layers) {
    const auto& factors = layers.at(first).by_output;
    const auto [low, high] = std::minmax_element(factors.begin(), factors.end());
    Json fact = Json::object();
    fact.set("pass", "equalize_layers").set("node", label(graph, first)).set("with", label(graph, second));
    fact.set("least", *low).set("most", *high).set("what", "evened out with " + label(graph, second));
    ctx.journal.fact("change", std::move(fact));
  }

  static void apply(Graph& graph, const Layer& layer, PassContext& ctx) {
    const Product& p = layer.product;
    const Tensor weight = graph[graph[p.node].inputs[Product::weight_input].value].data;
    auto scaled = scaled_weight(weight, p, layer.by_output, layer.by_input);
    std::vector<double> bias = layer.bias;
    for (std::size_t c = 0; c < bias.size(); ++c) bias[c] *= layer.by_output[c];
    auto stored = from_doubles(bias, {p.out_channels()}, weight.dtype());
    if (!scaled || !stored) {
      throw Error(Code::input, "the evened out weights of \"" + label(graph, p.node) + "\" do not fit their type",
                  "leave the layer out with `where:`");
    }
    set_constant_input(graph, p.node, Product::weight_input, std::move(*scaled));
    if (layer.added) {
      set_constant_input(graph, layer.added->node, layer.added->input, std::move(*stored));
    } else if (p.takes_bias && input_of(graph[p.node], Product::bias_input) != ValueId::none) {
      set_bias(graph, p, bias);
    }
    Json fold = Json::object();
    fold.set("pass", "equalize_layers").set("node", label(graph, p.node));
    fold.set("outputs", exact_text(layer.by_output)).set("inputs", exact_text(layer.by_input));
    ctx.journal.fact("fold", std::move(fold));
  }
};

}  // namespace

constinit const PassDef equalize_layers{
    "equalize_layers",
    "even out the weight ranges of channels between layers with homogeneous steps between them",
    "Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, arXiv 1906.04721",
    Effect::equivalent,
    1,
    make_pass<EqualizeLayers>};

}  // namespace qtool::pass

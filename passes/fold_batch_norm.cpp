// SPDX-License-Identifier: Apache-2.0
// fold_batch_norm: an affine step per channel, y = a x + b, disappears into the weights of the product beside it.
//
//   product, then affine:   W'[o,:] = a[o] W[o,:]    c'[o] = a[o] c[o] + b[o]
//   affine, then product:   W'[:,i] = a[i] W[:,i]    c'[o] = c[o] + sum_i W[o,i] b[i]    (no padding, or b = 0;
//                           also through a Flatten)
//
// Computed in double, rounded once to the type of the weights. BatchNormalization gives a = gamma / sqrt(var + eps)
// and b = beta - mean a (Ioffe and Szegedy, arXiv 1502.03167); Mul, Div, Add and Sub of a constant per channel are
// affine too. Left alone: a product whose output somebody else reads, weights that are no constants.
#include <algorithm>
#include <cmath>
#include <string>

#include "calib/op.h"
#include "formats/ir/absent.h"
#include "passes/normals.h"
#include "passes/pass.h"
#include "passes/product.h"
#include "passes/rewrite.h"

namespace qtool::pass {
namespace {

struct Affine {
  std::vector<double> a, b;  // per channel
};

/// The affine step, or why it is none.
struct Finding {
  std::optional<Affine> affine;
  std::string why;
  std::optional<Normals> normals;  // what it puts out, where it is a normalization
};

Finding refuse(std::string why) { return {std::nullopt, std::move(why), {}}; }

bool is_inference(const Graph& graph, const Links& links, const Node& node) {
  if (input_of(node, 0) == ValueId::none || node.outputs.empty() || node.outputs[0] == ValueId::none) return false;
  const std::int64_t opset = graph.opset();
  if (opset >= 14 && node.attrs.get("training_mode", std::int64_t{0}) != 0) return false;
  if (opset < 7 && node.attrs.get("is_test", std::int64_t{0}) == 0) return false;
  return std::none_of(node.outputs.begin() + 1, node.outputs.end(),
                      [&](ValueId v) { return v != ValueId::none && !links.consumers(v).empty(); });
}

Finding read_batch_norm(const Graph& graph, const Links& links, NodeId id, std::int64_t channels, Threads& threads) {
  const Node& node = graph[id];
  if (!is_inference(graph, links, node)) return refuse("it is in training form");
  if (node.attrs.get("spatial", std::int64_t{1}) != 1) return refuse("it normalizes each position by itself");
  std::vector<double> p[4];  // gamma, beta, mean, variance
  for (std::size_t i = 0; i < 4; ++i) {
    const Tensor data = resolve_constant(graph, links, input_of(node, i + 1), threads);
    if (data.empty()) return refuse("its parameters are no constants");
    if (data.count() != channels) return refuse("its parameters do not match the channels beside it");
    if (is_absent(data)) return refuse("its parameters are not known while planning");
    p[i] = to_doubles(data);
  }
  const double epsilon = static_cast<double>(node.attrs.get("epsilon", 1e-5F));
  Affine f;
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    f.a.push_back(p[0][c] / std::sqrt(p[3][c] + epsilon));
    f.b.push_back(p[1][c] - p[2][c] * f.a[c]);
    if (!std::isfinite(f.a[c]) || !std::isfinite(f.b[c])) {
      return refuse("channel " + std::to_string(c) + " has no finite scale (variance plus epsilon is not positive)");
    }
  }
  return {std::move(f), {}, normals_behind(p[1], p[0])};
}

/// Mul, Div, Add or Sub of `x` and a constant per channel. `rank`: of x; the constant must not add axes.
Finding read_arithmetic(const Graph& graph, const Links& links, NodeId id, ValueId x, std::int64_t channels,
                        std::int64_t rank, std::int64_t axis, Threads& threads) {
  const Node& node = graph[id];
  const bool mul = node.op == "Mul", div = node.op == "Div", add = node.op == "Add", sub = node.op == "Sub";
  if (!node.domain.empty() || !(mul || div || add || sub) || node.inputs.size() != 2) return refuse("it is not affine");
  const std::size_t side = node.inputs[0].value == x ? 1 : 0;
  const Tensor data = resolve_constant(graph, links, node.inputs[side].value, threads);
  if (data.empty() || data.rank() > rank) return refuse("its other input is no constant per channel");
  auto k = per_channel(data, channels, rank, axis);
  if (!k || (div && side == 0)) return refuse("its other input is no constant per channel");
  const auto n = static_cast<std::size_t>(channels);
  Affine f{std::vector<double>(n, 1.0), std::vector<double>(n, 0.0)};
  for (std::size_t c = 0; c < n; ++c) {
    const double v = (*k)[c];
    if (mul) f.a[c] = v;
    if (div) f.a[c] = 1 / v;
    if (add) f.b[c] = v;
    if (sub && side == 1) f.b[c] = -v;
    if (sub && side == 0) f.a[c] = -1, f.b[c] = v;
    if (!std::isfinite(f.a[c])) return refuse("it divides by zero");
  }
  return {std::move(f), {}, {}};
}

/// Every channel `times` times in a row.
Affine repeated(const Affine& f, std::int64_t times) {
  Affine r;
  for (std::size_t c = 0; c < f.a.size(); ++c) {
    r.a.insert(r.a.end(), static_cast<std::size_t>(times), f.a[c]);
    r.b.insert(r.b.end(), static_cast<std::size_t>(times), f.b[c]);
  }
  return r;
}

bool pads_with_zeros(const Node& conv) {
  const auto pads = conv.attrs.get("pads", std::vector<std::int64_t>{});
  const std::string automatic = conv.attrs.get("auto_pad", "NOTSET");
  return automatic.starts_with("SAME") || std::any_of(pads.begin(), pads.end(), [](auto n) { return n != 0; });
}

constexpr const char* does_not_fit = "the folded weights do not fit their type";

class FoldBatchNorm final : public Pass {
  bool affine_ = true;

 public:
  void options(Options& o) override {
    o("affine", affine_, "also fold a Mul, Div, Add or Sub of a constant per channel that follows a product");
  }

  void run(Graph& graph, PassContext& ctx) override {
    Graph typed = graph;
    infer_types(typed);
    for (const NodeId id : graph.order()) {
      ctx.check_stop();
      if (graph.alive(id)) fold_followers(graph, id, typed, ctx);
    }
    for (const NodeId id : graph.order()) {
      if (!graph.alive(id) || !is_op(graph[id], "BatchNormalization") || !ctx.selects(id)) continue;
      const std::string name = label(graph, id);
      const std::string why = fold_into_next(graph, id, typed, ctx);
      if (!why.empty()) ctx.journal.skip("fold_batch_norm", name, why);
    }
    erase_dead(graph);
  }

 private:
  struct Told {
    std::string node, op, into;
    std::string_view side;  // of the product's channels: outputs, inputs
  };

  static void tell(PassContext& ctx, const Told& t) {
    Json fact = Json::object(), fold = Json::object();
    fact.set("pass", "fold_batch_norm").set("node", t.node).set("what", "folded into " + t.into);
    ctx.journal.fact("change", std::move(fact));
    fold.set("pass", "fold_batch_norm").set("node", t.node).set("op", t.op).set("into", t.into).set("side", t.side);
    ctx.journal.fact("fold", std::move(fold));
  }

  /// Folds what follows product `id`, one step after the other, until something else comes. `typed`: the graph as it
  /// was, with all types that can be known; ids and ranks have not changed since.
  void fold_followers(Graph& graph, NodeId id, const Graph& typed, PassContext& ctx) const {
    std::optional<Normals> normals;
    while (fold_follower(graph, id, typed, ctx, normals)) {
    }
    if (normals) note_normals(ctx.journal, label(graph, id), *normals);
  }

  /// `normals`: what is put out so far, as far as a normalization tells.
  bool fold_follower(Graph& graph, NodeId id, const Graph& typed, PassContext& ctx,
                     std::optional<Normals>& normals) const {
    const auto product = product_of(graph, id);
    if (!product) return false;
    const Links links(graph);
    const auto bias = added_bias(graph, links, *product);
    const NodeId end = bias ? bias->node : id;
    if (has_decisions(graph, links, id) || has_decisions(graph, links, end)) return false;
    const ValueId out = graph[end].outputs[0];
    const auto consumer = sole_consumer(graph, links, out);
    if (!consumer || !ctx.selects(consumer->node) || has_decisions(graph, links, consumer->node)) return false;
    const Finding found = read_follower(graph, links, typed[out].type, *product, end, consumer->node, ctx.threads);
    if (!found.affine) return false;
    const Told told{label(graph, consumer->node), graph[consumer->node].op, label(graph, id), "outputs"};
    if (!fold_behind(graph, *product, bias, *found.affine, consumer->node, out)) return false;
    tell(ctx, told);
    if (found.normals) {
      normals = found.normals;
    } else if (normals) {
      for (std::size_t c = 0; c < normals->mean.size(); ++c) {
        normals->mean[c] = normals->mean[c] * found.affine->a[c] + found.affine->b[c];
        normals->deviation[c] *= std::fabs(found.affine->a[c]);
      }
    }
    return true;
  }

  Finding read_follower(const Graph& graph, const Links& links, const Type& type, const Product& p, NodeId end,
                        NodeId id, Threads& threads) const {
    const Node& node = graph[id];
    const ValueId x = graph[end].outputs[0];
    const std::int64_t weight_rank = graph[graph[p.node].inputs[Product::weight_input].value].data.rank();
    // MatMul broadcasts: its rank is that of its first input, which only a type tells.
    const std::int64_t rank = p.takes_bias      ? weight_rank
                              : type.known_rank ? static_cast<std::int64_t>(type.shape.size())
                                                : 1;
    if (is_op(node, "BatchNormalization")) {
      if (node.inputs[0].value != x) return refuse("it is used as a parameter");
      if (!p.spatial && rank != 2) return refuse("its channels are not those of the product");
      return read_batch_norm(graph, links, id, p.out_channels(), threads);
    }
    // An Add right behind a MatMul is its bias, the form that runtimes know.
    if (!affine_ || (!p.takes_bias && end == p.node && node.op == "Add")) return refuse("it is the bias");
    return read_arithmetic(graph, links, id, x, p.out_channels(), rank, p.spatial ? 1 : -1, threads);
  }

  /// False, and nothing changed, when the fold cannot be done.
  static bool fold_behind(Graph& graph, const Product& p, const std::optional<AddedBias>& added, const Affine& f,
                          NodeId follower, ValueId out) {
    const Tensor& weight = graph[graph[p.node].inputs[Product::weight_input].value].data;
    auto scaled = scaled_weight(weight, p, f.a, {});
    const DType dtype = weight.dtype();
    std::vector<double> bias(f.b.size());
    if (added) {
      bias = *per_channel(graph[graph[added->node].inputs[added->input].value].data, p.out_channels(), 8, -1);
    } else if (p.takes_bias) {
      const auto old = bias_of(graph, p);
      if (!old) return false;
      bias = *old;
    }
    bool moved = false;
    for (std::size_t o = 0; o < bias.size(); ++o) {
      bias[o] = bias[o] * f.a[o] + f.b[o];
      moved = moved || bias[o] != 0;
    }
    auto stored = from_doubles(bias, {p.out_channels()}, dtype);
    if (!scaled || !stored) return false;
    const bool keep_as_add = !p.takes_bias && !added && moved;
    const Graph before = graph;
    set_constant_input(graph, p.node, Product::weight_input, std::move(*scaled));
    if (added) {
      set_constant_input(graph, added->node, added->input, std::move(*stored));
    } else if (p.takes_bias && (moved || input_of(graph[p.node], Product::bias_input) != ValueId::none)) {
      set_bias(graph, p, bias);
    }
    if (keep_as_add) {
      // What is left of the affine step is the bias of the MatMul.
      const ValueId constant = add_constant(graph, label(graph, p.node) + ".bias", std::move(*stored));
      Node& node = graph[follower];
      Node add;
      add.name = node.name;
      add.op = "Add";
      add.inputs = {{out, nullptr}, {constant, nullptr}};
      add.outputs = {node.outputs[0]};
      node = std::move(add);
      return true;
    }
    if (!bypass(graph, follower, out)) {
      graph = before;
      return false;
    }
    return true;
  }

  /// Folds a BatchNormalization into the product that reads it. Empty when done, else why not.
  static std::string fold_into_next(Graph& graph, NodeId id, const Graph& typed, PassContext& ctx) {
    const Links links(graph);
    if (has_decisions(graph, links, id)) return "quantization was decided already";
    if (!is_inference(graph, links, graph[id])) return "it is in training form";
    auto consumer = sole_consumer(graph, links, graph[id].outputs[0]);
    if (!consumer) return "no product before it takes it, and more than one node reads it";
    const bool flat = is_op(graph[consumer->node], "Flatten") && !has_decisions(graph, links, consumer->node) &&
                      graph[consumer->node].attrs.get("axis", std::int64_t{1}) == 1;
    if (flat) consumer = sole_consumer(graph, links, graph[consumer->node].outputs[0]);
    const auto p = consumer ? product_of(graph, consumer->node) : std::nullopt;
    if (!p || consumer->input != 0) return "no product with constant weights is beside it";
    if (has_decisions(graph, links, p->node)) return "quantization was decided already";
    const Node& node = graph[p->node];
    const Type& type = typed[graph[id].inputs[0].value].type;
    const bool turned = node.attrs.get("transA", std::int64_t{0}) != 0;
    const bool aligned = p->spatial || (flat && !turned) || (!turned && type.known_rank && type.shape.size() == 2);
    // Flattened, each channel of the normalization is as many neighbouring inputs as it has positions.
    const std::int64_t channels =
        flat ? resolve_constant(graph, links, input_of(graph[id], 1), ctx.threads).count() : p->in_channels();
    if (!aligned || channels == 0 || p->in_channels() % channels != 0) {
      return "its channels are not those of the product";
    }
    const Finding found = read_batch_norm(graph, links, id, channels, ctx.threads);
    if (!found.affine) return found.why;
    const Affine f = repeated(*found.affine, p->in_channels() / channels);
    const bool shifts = std::any_of(f.b.begin(), f.b.end(), [](double b) { return b != 0; });
    if (shifts && (node.op == "ConvTranspose" || (p->spatial && pads_with_zeros(node)))) {
      return "the padding of the product after it does not see its shift";
    }
    const auto added = added_bias(graph, links, *p);
    if (shifts && !p->takes_bias && !added) return "the product after it has no bias that could take its shift";
    auto bias = added ? per_channel(graph[graph[added->node].inputs[added->input].value].data, p->out_channels(), 8, -1)
                      : bias_of(graph, *p);
    if (!bias) return "the bias of the product after it is no constant per channel";

    const Tensor weight = graph[node.inputs[Product::weight_input].value].data;
    auto scaled = scaled_weight(weight, *p, {}, f.a);
    if (!is_absent(weight)) {  // planned, the bias is there, whatever it holds
      const std::vector<double> w = to_doubles(weight);
      const double alpha = node.op == "Gemm" ? static_cast<double>(node.attrs.get("alpha", 1.0F)) : 1.0;
      p->for_each([&](std::size_t out, std::size_t in, std::size_t e) { (*bias)[out] += alpha * w[e] * f.b[in]; });
    }
    auto stored = from_doubles(*bias, {p->out_channels()}, weight.dtype());
    if (!scaled || !stored) return does_not_fit;
    set_constant_input(graph, p->node, Product::weight_input, std::move(*scaled));
    if (shifts && added) set_constant_input(graph, added->node, added->input, std::move(*stored));
    if (shifts && p->takes_bias) set_bias(graph, *p, *bias);
    tell(ctx, {label(graph, id), graph[id].op, label(graph, p->node), "inputs"});
    bypass(graph, id, graph[id].inputs[0].value);
    return {};
  }
};

}  // namespace

constinit const PassDef fold_batch_norm{
    "fold_batch_norm",
    "fold BatchNormalization and constant affine steps into the products beside them",
    "arXiv 1502.03167",
    Effect::equivalent,
    1,
    make_pass<FoldBatchNorm>};

}  // namespace qtool::pass

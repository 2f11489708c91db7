// SPDX-License-Identifier: Apache-2.0
// fuse_norm: normalizations that an exporter wrote out in their parts become one node again. With d = x - mean(x)
// (or d = x, the form without a mean) over the last axes of x:
//
//   d / sqrt(mean(d^2) + epsilon) * gamma + beta   ->  LayerNormalization (Ba et al., arXiv 1607.06450), opset 17
//   x / sqrt(mean(x^2) + epsilon) * gamma          ->  RMSNormalization (Zhang and Sennrich, arXiv 1910.07467), opset
//   23
//
// Runtimes that have such a layer compute its mean and variance in float32 whatever the type of x; of the parts they
// keep the type, and a square overflows in float16. A gamma or beta that is no constant stays a node of its own.
#include <algorithm>
#include <numeric>
#include <string>

#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace qtool::pass {
namespace {

constexpr std::int64_t layer_opset = 17, rms_opset = 23;

/// A normalization in parts, up to its division.
struct Parts {
  ValueId x = ValueId::none;
  bool centred = false;   // with a mean
  std::int64_t axis = 0;  // the first of those normalized, from the end: negative
  float epsilon = 0;
  std::vector<NodeId> nodes;  // that must have no other readers
};

/// One normalization, with the products and sums by constants that belong to it.
struct Norm {
  Parts parts;
  NodeId last = NodeId::none;  // its output is the normalization's
  Tensor gamma, beta;          // of the normalized extents; beta may be empty
};

class Finder {
 public:
  Finder(const Graph& graph, const Graph& typed, Threads& threads)
      : graph_(graph), typed_(typed), links_(graph), threads_(threads) {}

  std::optional<Norm> at(NodeId id) const {
    std::optional<Parts> parts = parts_at(id);
    if (!parts) return std::nullopt;
    const Type& type = typed_[parts->x].type;
    const Shape extents(type.shape.end() + parts->axis, type.shape.end());
    if (element_count(extents) < 1 || std::any_of(extents.begin(), extents.end(), [](auto n) { return n < 1; })) {
      return std::nullopt;
    }
    Norm norm{std::move(*parts), id, {}, {}};
    norm.gamma = take(norm, "Mul", extents);
    if (norm.gamma.empty()) {
      const std::vector<double> ones(static_cast<std::size_t>(element_count(extents)), 1.0);
      norm.gamma = *from_doubles(ones, extents, type.dtype);
    }
    if (norm.parts.centred) norm.beta = take(norm, "Add", extents);
    if (!private_to(norm)) return std::nullopt;
    return norm;
  }

 private:
  const Node* producer(ValueId v, std::string_view op) const {
    if (v == ValueId::none) return nullptr;
    const NodeId id = links_.producer(v);
    return id != NodeId::none && is_op(graph_[id], op) ? &graph_[id] : nullptr;
  }
  NodeId node_of(const Node& node) const { return links_.producer(node.outputs[0]); }

  std::optional<double> scalar(ValueId v) const {
    const Tensor t = resolve_constant(graph_, links_, v, threads_);
    if (t.empty() || t.count() != 1) return std::nullopt;
    return to_doubles(t)[0];
  }

  /// The numerator and the root of  a / s,  a * Reciprocal(s)  or  a * (1 / s).
  std::optional<std::pair<ValueId, ValueId>> quotient(NodeId id, std::vector<NodeId>& nodes) const {
    const Node& node = graph_[id];
    if (node.inputs.size() != 2) return std::nullopt;
    if (is_op(node, "Div")) return std::pair{node.inputs[0].value, node.inputs[1].value};
    if (!is_op(node, "Mul")) return std::nullopt;
    for (const std::size_t side : {1U, 0U}) {
      const ValueId factor = node.inputs[side].value, other = node.inputs[1 - side].value;
      const Node* inverse = producer(factor, "Reciprocal");
      if (inverse) {
        nodes.push_back(node_of(*inverse));
        return std::pair{other, inverse->inputs[0].value};
      }
      inverse = producer(factor, "Div");
      if (inverse && scalar(inverse->inputs[0].value) == 1.0) {
        nodes.push_back(node_of(*inverse));
        return std::pair{other, inverse->inputs[1].value};
      }
    }
    return std::nullopt;
  }

  /// The axis from which on ReduceMean takes the mean of `x`, as a negative number; none when it is another mean.
  std::optional<std::int64_t> mean_axis(const Node& mean, ValueId x) const {
    const Type& type = typed_[x].type;
    if (mean.inputs[0].value != x || mean.attrs.get("keepdims", std::int64_t{1}) != 1 || !type.known_rank) return {};
    std::vector<std::int64_t> axes = mean.attrs.get("axes", std::vector<std::int64_t>{});
    if (input_of(mean, 1) != ValueId::none) {
      const Tensor given = resolve_constant(graph_, links_, input_of(mean, 1), threads_);
      if (given.empty() || given.dtype() != DType::i64) return {};
      axes.assign(given.read<std::int64_t>().begin(), given.read<std::int64_t>().end());
    }
    const auto rank = static_cast<std::int64_t>(type.shape.size());
    for (std::int64_t& axis : axes) axis -= axis >= 0 ? rank : 0;
    std::sort(axes.begin(), axes.end());
    if (axes.empty() || axes[0] < -rank) return {};
    std::vector<std::int64_t> wanted(axes.size());
    std::iota(wanted.begin(), wanted.end(), -static_cast<std::int64_t>(axes.size()));
    return axes == wanted ? std::optional(axes[0]) : std::nullopt;
  }

  /// x for the square of x.
  ValueId root_of_square(const Node* square) const {
    if (!square || square->inputs.size() != 2) return ValueId::none;
    const ValueId a = square->inputs[0].value, b = square->inputs[1].value;
    if (square->op == "Pow") return scalar(b) == 2.0 ? a : ValueId::none;
    return a == b ? a : ValueId::none;
  }

  std::optional<Parts> parts_at(NodeId id) const {
    Parts parts;
    const auto division = quotient(id, parts.nodes);
    if (!division) return std::nullopt;
    const auto [numerator, root] = *division;
    const Node* sqrt = producer(root, "Sqrt");
    const Node* sum = sqrt ? producer(sqrt->inputs[0].value, "Add") : nullptr;
    if (!sum || sum->inputs.size() != 2) return std::nullopt;
    const Node* mean = nullptr;
    for (const std::size_t side : {0U, 1U}) {
      const auto epsilon = scalar(sum->inputs[1 - side].value);
      if (!epsilon || *epsilon < 0) continue;
      mean = producer(sum->inputs[side].value, "ReduceMean");
      parts.epsilon = static_cast<float>(*epsilon);
      if (mean) break;
    }
    if (!mean) return std::nullopt;
    const ValueId squared = mean->inputs[0].value;
    const Node* square = producer(squared, "Pow");
    if (!square) square = producer(squared, "Mul");
    const ValueId d = root_of_square(square);
    if (d == ValueId::none) return std::nullopt;
    const auto axis = mean_axis(*mean, squared);
    if (!axis) return std::nullopt;
    parts.axis = *axis;
    parts.nodes.insert(parts.nodes.end(), {node_of(*sqrt), node_of(*sum), node_of(*mean), node_of(*square)});
    if (const ValueId x = centre_of(d, numerator, *axis, parts.nodes); x != ValueId::none) {
      parts.x = x;
      parts.centred = true;
    } else if (d == numerator) {
      parts.x = d;
    } else {
      return std::nullopt;
    }
    return usable(typed_[parts.x].type) ? std::optional(parts) : std::nullopt;
  }

  /// x where both values are x - mean(x); exporters write that once, or once for each use.
  ValueId centre_of(ValueId d, ValueId numerator, std::int64_t axis, std::vector<NodeId>& nodes) const {
    std::vector<NodeId> found;
    ValueId x = ValueId::none;
    for (const ValueId v : {d, numerator}) {
      const Node* difference = producer(v, "Sub");
      const Node* mean = difference ? producer(difference->inputs[1].value, "ReduceMean") : nullptr;
      if (!mean || mean_axis(*mean, difference->inputs[0].value) != axis) return ValueId::none;
      if (x != ValueId::none && x != difference->inputs[0].value) return ValueId::none;
      x = difference->inputs[0].value;
      found.insert(found.end(), {node_of(*difference), node_of(*mean)});
    }
    nodes.insert(nodes.end(), found.begin(), found.end());
    return x;
  }

  static bool usable(const Type& type) {
    return type.known_rank && type.known_dtype &&
           (type.dtype == DType::f32 || type.dtype == DType::f16 || type.dtype == DType::bf16);
  }

  /// The constant by which the only reader of the normalization multiplies it, or which it adds; that reader is then
  /// part of it. Empty: there is none.
  Tensor take(Norm& norm, std::string_view op, const Shape& extents) const {
    const auto next = sole_consumer(graph_, links_, graph_[norm.last].outputs[0]);
    if (!next || !is_op(graph_[next->node], op) || graph_[next->node].inputs.size() != 2) return {};
    const Tensor t = resolve_constant(graph_, links_, graph_[next->node].inputs[1 - next->input].value, threads_);
    const auto rank = static_cast<std::int64_t>(typed_[norm.parts.x].type.shape.size());
    if (t.empty() || t.rank() > rank || t.dtype() != typed_[norm.parts.x].type.dtype) return {};
    Shape padded(extents.size(), 1);
    std::copy_backward(t.shape().end() - std::min<std::ptrdiff_t>(t.rank(), std::ssize(padded)), t.shape().end(),
                       padded.end());
    if (padded != extents || t.count() != element_count(extents)) return {};
    norm.parts.nodes.push_back(norm.last);
    norm.last = next->node;
    return t.reshaped(extents);
  }

  /// Nobody but its own nodes reads what the parts compute, and nothing was decided about them.
  bool private_to(const Norm& norm) const {
    const auto inside = [&](NodeId n) {
      return n == norm.last || std::find(norm.parts.nodes.begin(), norm.parts.nodes.end(), n) != norm.parts.nodes.end();
    };
    if (has_decisions(graph_, links_, norm.last)) return false;
    return std::all_of(norm.parts.nodes.begin(), norm.parts.nodes.end(), [&](NodeId n) {
      const auto& readers = links_.consumers(graph_[n].outputs[0]);
      return !has_decisions(graph_, links_, n) &&
             std::all_of(readers.begin(), readers.end(), [&](const auto& c) { return inside(c.node); });
    });
  }

  const Graph& graph_;
  const Graph& typed_;
  const Links links_;
  Threads& threads_;
};

class FuseNorm final : public Pass {
  std::string when_ = "wanted";

 public:
  void options(Options& o) override {
    o("when", when_,
      "wanted: for targets that run one layer better than its parts; always: where the operator can be had",
      {"wanted", "always"});
  }

  void run(Graph& graph, PassContext& ctx) override {
    if (when_ == "wanted" && !ctx.target.normalization_layers) return;
    std::vector<Norm> norms = find_norms(graph, ctx);
    if (norms.empty()) return;
    std::int64_t needed = 0;
    for (const Norm& norm : norms) needed = std::max(needed, opset_of(norm));
    if (ctx.target.max_opset > 0) needed = std::min(needed, ctx.target.max_opset);
    if (graph.opset() < needed && convert(graph, needed, ctx)) norms = find_norms(graph, ctx);
    for (const Norm& norm : norms) {
      if (opset_of(norm) > graph.opset()) {
        ctx.journal.skip("fuse_norm", label(graph, norm.last),
                         "its operator needs opset " + std::to_string(opset_of(norm)) + " and the model has " +
                             std::to_string(graph.opset()));
      } else {
        replace(graph, norm, ctx);
      }
    }
    erase_dead(graph);
  }

 private:
  static std::int64_t opset_of(const Norm& norm) { return norm.parts.centred ? layer_opset : rms_opset; }

  static std::vector<Norm> find_norms(const Graph& graph, PassContext& ctx) {
    std::vector<Norm> norms;
    Graph typed = graph;
    infer_types(typed);
    const Finder finder(graph, typed, ctx.threads);
    for (const NodeId id : graph.order()) {
      ctx.check_stop();
      if (!ctx.selects(id)) continue;
      if (auto norm = finder.at(id)) norms.push_back(std::move(*norm));
    }
    return norms;
  }

  /// False, and the model stays as it is, when it cannot be had at that opset.
  static bool convert(Graph& graph, std::int64_t opset, PassContext& ctx) {
    Graph newer = graph;
    try {
      convert_opset(newer, opset);
    } catch (const Error& e) {
      ctx.journal.warn("fuse_norm", std::string("the model stays at its opset: ") + e.what());
      return false;
    }
    graph = std::move(newer);
    return true;
  }

  static void replace(Graph& graph, const Norm& norm, PassContext& ctx) {
    const std::string name = label(graph, norm.last);
    Node node;
    node.name = graph[norm.last].name;
    node.op = norm.parts.centred ? "LayerNormalization" : "RMSNormalization";
    node.attrs.set("axis", norm.parts.axis);
    node.attrs.set("epsilon", norm.parts.epsilon);
    node.inputs = {{norm.parts.x, nullptr}, {add_constant(graph, name + ".gamma", norm.gamma), nullptr}};
    if (!norm.beta.empty()) node.inputs.push_back({add_constant(graph, name + ".beta", norm.beta), nullptr});
    node.outputs = {graph[norm.last].outputs[0]};
    Json fact = Json::object();
    fact.set("pass", "fuse_norm").set("node", name).set("what", "fused into one " + node.op);
    graph[norm.last] = std::move(node);
    ctx.journal.fact("change", std::move(fact));
  }
};

}  // namespace

constinit const PassDef fuse_norm{"fuse_norm",
                                  "make one node of a layer or RMS normalization that was exported in parts",
                                  "arXiv 1607.06450",
                                  Effect::equivalent,
                                  1,
                                  make_pass<FuseNorm>};

}  // namespace qtool::pass

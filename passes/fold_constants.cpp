// SPDX-License-Identifier: Apache-2.0
// fold_constants: what does not depend on the data is computed once, here. Every node whose inputs are all known is
// evaluated by the operators of calib; Constant nodes become initializers, Shape of a value whose shape is sure
// becomes a constant; Identity, inference Dropout and nodes that nobody needs disappear. An If of a known condition
// gives way to its branch; bodies of If, Loop and Scan are folded too and see the constants that they capture.
//
// What stays: random operators; DequantizeLinear (a model that is quantized already stays so); results that would
// make the file larger by more than `max_growth`; nodes that produce a graph output (the output keeps its name).
//
// Values are evaluated into a side table first and written into the graph last, once it is clear which of them anybody
// still needs: a long chain over a large table leaves one constant, not ten.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "calib/op.h"
#include "formats/base/error.h"
#include "passes/changes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace qtool::pass {
namespace {

/// An intermediate result larger than this (or twice its inputs) is not even computed.
constexpr std::int64_t largest_result = std::int64_t{64} << 20;

bool is_one_of(const Node& node, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return is_op(node, name); });
}

bool never_folds(const Node& node) {
  if (is_one_of(node, {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
                       "Bernoulli", "DequantizeLinear", "Optional", "OptionalGetElement", "OptionalHasElement"})) {
    return true;
  }
  if (!node.domain.empty() && node.domain != "ai.onnx.ml") return true;
  bool bodies = false;
  for_each_body(node, [&](const Graph&) { bodies = true; });
  return bodies || !node.captured.empty();
}

/// A result never holds more elements than the inputs together.
bool never_grows(const Node& node) {
  return is_one_of(node, {"Shape", "Size", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice",
                          "Concat", "Split", "Identity", "Constant"});
}

std::int64_t bytes_of(const Tensor& t) { return static_cast<std::int64_t>(t.size_bytes()); }

Type type_of(const Tensor& t) {
  Type type;
  type.dtype = t.dtype();
  type.known_dtype = type.known_rank = true;
  type.shape = t.shape();
  return type;
}

/// Whether the results of `node` are sure to be small, told from the types alone: the operator's own inference.
bool is_bounded(const Graph& graph, const Node& node, std::span<const Tensor> inputs) {
  if (never_grows(node)) return true;
  const OpDef* def = find_op(node.domain, node.op);
  if (def == nullptr || def->infer == nullptr) return false;
  std::vector<Type> types, outputs(node.outputs.size());
  std::int64_t budget = largest_result;
  for (const Tensor& t : inputs) {
    types.push_back(type_of(t));
    budget = std::max(budget, 2 * bytes_of(t));
  }
  const std::function<std::vector<Type>(std::string_view, const std::vector<Type>&)> no_bodies =
      [](std::string_view, const std::vector<Type>&) { return std::vector<Type>{}; };
  InferContext context{node, graph.opset(node.domain), types, inputs, outputs, no_bodies};
  try {
    def->infer(context);
    for (const Type& type : outputs) {
      if (!type.known_rank || !type.known_dtype) return false;
      std::int64_t elements = 1;
      for (const std::int64_t n : type.shape) {
        if (n < 0 || (n > 0 && elements > budget / n)) return false;
        elements *= n;
      }
      if (static_cast<std::int64_t>(byte_size(type.dtype, elements)) > budget) return false;
    }
  } catch (const Error&) {
    return false;
  }
  return true;
}

/// One graph (or body) being folded.
class Folder {
 public:
  Folder(Graph& graph, PassContext& ctx, std::int64_t max_growth) : graph_(graph), ctx_(ctx), max_growth_(max_growth) {}

  /// `captured`: what a body knows from outside, by its own values; null: this is no body.
  void run(const std::map<ValueId, Tensor>* captured) {
    if (captured != nullptr) known_ = *captured;
    for (const ValueId v : graph_.values()) {
      if (const Tensor* data = fixed_constant(graph_, v)) known_[v] = *data;
    }
    for (const auto& [v, data] : known_) given_.insert(v);
    note_decisions();
    take_branches();
    drop_identities();
    links_.emplace(graph_);
    find_sure_types(captured != nullptr);
    for (const NodeId id : graph_.order()) {
      ctx_.check_stop();
      fold_bodies(id);
      evaluate(id);
    }
    write_back();
    erase_dead(graph_);
    drop_unused_captures();
  }

 private:
  bool open(NodeId id) const { return ctx_.selects(id) && !decided_.contains(id); }

  void note_decisions() {
    const Links links(graph_);
    for (const NodeId id : graph_.nodes()) {
      if (has_decisions(graph_, links, id)) decided_.insert(id);
    }
  }

  /// If of a condition that is known. What an earlier round folded is a constant by now.
  void take_branches() {
    for (const NodeId id : graph_.nodes()) {
      const Node& node = graph_[id];
      if (!is_op(node, "If") || !open(id)) continue;
      const auto condition = known_.find(input_of(node, 0));
      if (condition == known_.end() || condition->second.count() != 1) continue;
      if (condition->second.dtype() != DType::boolean) continue;
      const bool taken = to_int64s(condition->second)[0] != 0;
      const auto body = node.attrs.graph(taken ? "then_branch" : "else_branch");
      if (!body || body->outputs.size() != node.outputs.size()) continue;
      Json fold = Json::object(), renamed = Json::array();
      fold.set("pass", "fold_constants").set("node", label(graph_, id));
      for (const auto& [from, to] : take_branch(graph_, id, taken)) renamed.push(Json::array().push(from).push(to));
      fold.set("branch", taken ? "then_branch" : "else_branch").set("renamed", std::move(renamed));
      ctx_.journal.fact("fold", std::move(fold));
    }
  }

  /// Identity and inference Dropout.
  void drop_identities() {
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_[id];
      if (!open(id) || !passes_through(node)) continue;
      const ValueId by = node.inputs[0].value;
      if (by == ValueId::none) continue;
      bypass(graph_, id, by);
    }
  }

  bool passes_through(const Node& node) const {
    if (node.outputs.empty() || node.outputs[0] == ValueId::none || node.inputs.empty()) return false;
    if (graph_[node.outputs[0]].type.kind != TypeKind::tensor) return false;
    if (is_op(node, "Identity")) return true;
    if (!is_op(node, "Dropout")) return false;
    const Links links(graph_);
    const bool mask = std::any_of(node.outputs.begin() + 1, node.outputs.end(),
                                  [&](ValueId v) { return v != ValueId::none && !links.consumers(v).empty(); });
    if (mask) return false;
    const std::int64_t opset = graph_.opset();
    if (opset < 7) return node.attrs.get("is_test", std::int64_t{0}) != 0;
    if (opset < 12 || input_of(node, 2) == ValueId::none) return true;
    const auto training = known_.find(node.inputs[2].value);
    return training != known_.end() && training->second.dtype() == DType::boolean && training->second.count() == 1 &&
           to_int64s(training->second)[0] == 0;
  }

  /// Shapes that follow from the declared inputs. Declared types of values in between may be wrong (exporters leave
  /// those of a traced batch), so they do not count; nor do those of a body's inputs, which a loop may outgrow.
  void find_sure_types(bool body) {
    sure_ = graph_;
    std::set<ValueId> given;
    if (!body) given.insert(sure_.inputs.begin(), sure_.inputs.end());
    for (const ValueId v : sure_.values()) {
      if (!given.contains(v) && !sure_.is_constant(v)) sure_[v].type.known_rank = false;
    }
    infer_types(sure_);
  }

  void fold_bodies(NodeId id) {
    replace_bodies(graph_, id, [&](const std::shared_ptr<const Graph>& body) -> std::shared_ptr<const Graph> {
      auto copy = std::make_shared<Graph>(*body);
      std::map<ValueId, Tensor> outside;
      for (const Capture& c : body->captures) {
        const auto found = known_.find(graph_[id].captured[c.outer].value);
        if (found != known_.end()) outside[c.inner] = found->second;
      }
      PassContext inner{ctx_.target, ctx_.calibration, ctx_.journal, ctx_.threads,
                        ctx_.rng,    ctx_.rules,       std::nullopt, ctx_.stop};
      Folder(*copy, inner, max_growth_).run(&outside);
      const bool changed = changes_between(*body, *copy).reference() || body->captures.size() != copy->captures.size();
      return changed ? copy : nullptr;
    });
  }

  void drop_unused_captures() {
    const Links links(graph_);
    std::erase_if(graph_.captures, [&](const Capture& c) {
      if (!links.consumers(c.inner).empty()) return false;
      graph_.erase(c.inner);
      return true;
    });
  }

  void evaluate(NodeId id) {
    const Node& node = graph_[id];
    if (!open(id) || never_folds(node)) return;
    std::vector<Tensor> inputs;
    for (const Use& use : node.inputs) {
      Tensor input;
      if (use.value != ValueId::none) {
        const auto found = known_.find(use.value);
        if (found == known_.end()) {
          fold_shape(node);
          fold_gather_of_shape(node);
          return;
        }
        input = found->second;
      }
      inputs.push_back(std::move(input));
    }
    if (!is_bounded(graph_, node, inputs)) return;
    auto outputs = evaluate_node(graph_, id, inputs, ctx_.threads);
    if (!outputs) return;
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != ValueId::none) known_[node.outputs[i]] = std::move((*outputs)[i]);
    }
  }

  /// The extents that a Shape node gives, -1 where only a run tells. Empty optional: not even the rank is sure.
  std::optional<Shape> extents_of(const Node& shape) const {
    const Type& type = sure_[shape.inputs[0].value].type;
    if (!type.known_rank) return std::nullopt;
    const auto rank = static_cast<std::int64_t>(type.shape.size());
    const auto clamped = [&](std::int64_t i) { return std::clamp<std::int64_t>(i < 0 ? i + rank : i, 0, rank); };
    const std::int64_t start = clamped(shape.attrs.get("start", std::int64_t{0}));
    const std::int64_t end = std::max(start, clamped(shape.attrs.get("end", rank)));
    return Shape(type.shape.begin() + start, type.shape.begin() + end);
  }

  /// Shape and Size of a value that is not known, though its shape is.
  void fold_shape(const Node& node) {
    if (!is_one_of(node, {"Shape", "Size"}) || input_of(node, 0) == ValueId::none) return;
    const auto extents = extents_of(node);
    if (!extents || std::any_of(extents->begin(), extents->end(), [](auto n) { return n < 0; })) return;
    known_[node.outputs[0]] = node.op == "Size"
                                  ? Tensor::scalar<std::int64_t>(element_count(*extents))
                                  : Tensor::of<std::int64_t>({static_cast<std::int64_t>(extents->size())}, *extents);
  }

  /// One extent picked out of a shape may be sure although others (the batch) are not.
  void fold_gather_of_shape(const Node& node) {
    if (!is_op(node, "Gather") || input_of(node, 0) == ValueId::none || input_of(node, 1) == ValueId::none) return;
    const NodeId producer = links_->producer(node.inputs[0].value);
    const auto picked = known_.find(node.inputs[1].value);
    if (producer == NodeId::none || !is_op(graph_[producer], "Shape") || picked == known_.end()) return;
    if (input_of(graph_[producer], 0) == ValueId::none || !is_integer(picked->second.dtype())) return;
    const auto extents = extents_of(graph_[producer]);
    if (!extents) return;
    const auto n = static_cast<std::int64_t>(extents->size());
    std::vector<std::int64_t> values;
    for (const std::int64_t i : to_int64s(picked->second)) {
      if (i < -n || i >= n) return;
      values.push_back((*extents)[static_cast<std::size_t>(i < 0 ? i + n : i)]);
      if (values.back() < 0) return;
    }
    known_[node.outputs[0]] = Tensor::of<std::int64_t>(picked->second.shape(), values);
  }

  /// Nodes that stay ask for their inputs, last node first; what is asked for and known becomes a constant, unless it
  /// is too large: then its node stays and asks in turn.
  void write_back() {
    const Links links(graph_);
    std::set<ValueId> outputs;
    for (const Use& use : graph_.outputs) outputs.insert(use.value);
    std::set<ValueId> needed = outputs;
    auto order = graph_.order();
    for (auto it = order.rbegin(); it != order.rend(); ++it) {
      const Node& node = graph_[*it];
      const bool known = std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) {
        return v == ValueId::none || (known_.contains(v) && !given_.contains(v));
      });
      const bool asked = std::any_of(node.outputs.begin(), node.outputs.end(),
                                     [&](ValueId v) { return v != ValueId::none && needed.contains(v); });
      if (known && !asked && !node.outputs.empty()) continue;
      if (known && fits(node, needed)) {
        make_constant(*it, outputs, needed);
        continue;
      }
      for (const Use& use : node.inputs) needed.insert(use.value);
      for (const Use& use : node.captured) needed.insert(use.value);
    }
  }

  /// Growth is what the needed results add beyond the constants that the node reads, directly or through others.
  bool fits(const Node& node, const std::set<ValueId>& needed) const {
    if (is_op(node, "Constant")) return true;
    std::int64_t before = 0, after = 0;
    for (const Use& use : node.inputs) {
      if (use.value == ValueId::none) continue;
      const auto found = known_.find(use.value);
      if (found == known_.end()) continue;
      before += bytes_of(found->second);
      // Weights stored in half precision are read through a Cast; they are to be seen as weights.
      if (is_op(node, "Cast") && is_float(found->second.dtype())) return true;
    }
    for (const ValueId v : node.outputs) {
      if (v != ValueId::none && needed.contains(v)) after += bytes_of(known_.at(v));
    }
    return after - before <= max_growth_;
  }

  void make_constant(NodeId id, const std::set<ValueId>& outputs, const std::set<ValueId>& needed) {
    const std::vector<ValueId> results = graph_[id].outputs;
    const bool is_output = std::any_of(results.begin(), results.end(), [&](ValueId v) { return outputs.contains(v); });
    if (is_output && is_op(graph_[id], "Constant")) return;
    const std::string name = graph_[id].name;
    graph_.erase(id);
    for (const ValueId v : results) {
      if (v == ValueId::none || !needed.contains(v)) continue;
      const Tensor& data = known_.at(v);
      if (outputs.contains(v)) {
        Node constant;
        constant.name = results.size() == 1 ? name : graph_.fresh_name(graph_[v].name + ".constant");
        constant.op = "Constant";
        constant.attrs.set("value", data);
        constant.outputs = {v};
        graph_.add_node(std::move(constant));
        continue;
      }
      graph_[v].type = type_of(data);
      graph_[v].data = data;
    }
  }

  Graph& graph_;
  PassContext& ctx_;
  std::int64_t max_growth_;
  std::map<ValueId, Tensor> known_;
  std::set<ValueId> given_;   // known without evaluating a node
  std::set<NodeId> decided_;  // nodes with quant decisions around them
  std::optional<Links> links_;
  Graph sure_;  // types that follow from the inputs
};

class FoldConstants final : public Pass {
  bool freeze_inputs_ = true;
  std::int64_t max_growth_ = std::int64_t{1} << 16;

 public:
  void options(Options& o) override {
    o("freeze_inputs", freeze_inputs_,
      "graph inputs with a default (old exporters list every weight) become constants that no caller can override");
    o("max_growth", max_growth_, "bytes by which one folded node may enlarge the model", 0, 1e12);
  }

  void run(Graph& graph, PassContext& ctx) override {
    if (freeze_inputs_) freeze(graph, ctx);
    // A shape or a condition that became known may tell others: rounds, until nothing changes.
    Graph before;
    do {
      before = graph;
      Folder(graph, ctx, max_growth_).run(nullptr);
    } while (changes_between(before, graph).reference());
  }

 private:
  static void freeze(Graph& graph, PassContext& ctx) {
    const auto frozen = std::erase_if(graph.inputs, [&](ValueId v) { return graph.is_constant(v); });
    if (frozen == 0) return;
    Json fact = Json::object();
    fact.set("pass", "fold_constants").set("what", "graph inputs with a default became constants");
    fact.set("count", static_cast<std::int64_t>(frozen));
    ctx.journal.fact("change", std::move(fact));
  }
};

}  // namespace

constinit const PassDef fold_constants{"fold_constants",
                                       "compute what does not depend on the data, drop what does nothing",
                                       "",
                                       Effect::equivalent,
                                       1,
                                       make_pass<FoldConstants>};

}  // namespace qtool::pass

// SPDX-License-Identifier: Apache-2.0
// Types of all values, from those of the inputs. Values that constants decide (shapes that flow through Shape, Gather,
// Concat into Reshape) are computed on the way, as long as they are small.
#include <algorithm>

#include "calib/op.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::int64_t largest_folded = 4096;  // elements; shapes, axes, masks of a few rows

// Loops look at their bodies twice, so that nested ones double at every level. Beyond this many visits of nodes in
// bodies, what bodies produce stays unknown.
constexpr std::int64_t most_body_visits = std::int64_t{1} << 18;

bool is_standard(const Node& node) { return node.domain.empty() || node.domain == "ai.onnx"; }

bool fully_known(const Type& t) {
  return t.known_dtype && t.known_rank && std::all_of(t.shape.begin(), t.shape.end(), [](auto d) { return d >= 0; });
}

/// What is found out replaces what is declared, except where the declaration knows more.
void refine(Type& declared, const Type& found) {
  if (found.known_dtype) {
    declared.dtype = found.dtype;
    declared.known_dtype = true;
  }
  if (!found.known_rank) return;
  if (!declared.known_rank || declared.shape.size() != found.shape.size()) {
    declared.shape = found.shape;
    declared.symbols = found.symbols;
    declared.known_rank = true;
    return;
  }
  declared.symbols.resize(declared.shape.size());
  for (std::size_t d = 0; d < declared.shape.size(); ++d) {
    if (found.shape[d] >= 0) {
      declared.shape[d] = found.shape[d];
      declared.symbols[d].clear();
    } else if (declared.shape[d] < 0 && d < found.symbols.size() && !found.symbols[d].empty()) {
      declared.symbols[d] = found.symbols[d];
    }
  }
}

class Inference {
 public:
  Inference(Graph& graph, Threads& threads, std::int64_t& body_visits)
      : graph_(graph), threads_(threads), body_visits_(body_visits), known_(graph.value_slots()) {}

  /// `outer`: what is known about captured values, by Capture::outer.
  void run(const std::vector<Type>& outer, const std::vector<Tensor>& outer_data) {
    for (const ValueId v : graph_.values()) {
      Value& value = graph_[v];
      if (value.data.empty()) continue;
      known_[index(v)] = value.data;
      value.type = exact(value.data);
    }
    for (const Capture& c : graph_.captures) {
      if (c.outer < outer.size()) refine(graph_[c.inner].type, outer[c.outer]);
      if (c.outer < outer_data.size()) known_[index(c.inner)] = outer_data[c.outer];
    }
    for (const NodeId n : graph_.order()) visit(n);
  }

 private:
  static Type exact(const Tensor& t) {
    Type type;
    type.dtype = t.dtype();
    type.shape = t.shape();
    type.known_dtype = type.known_rank = true;
    return type;
  }

  void visit(NodeId id) {
    const Node& node = graph_[id];
    const OpDef* def = find_op(node.domain, node.op);
    if (def == nullptr) return;
    const std::int64_t opset =
        is_standard(node) ? graph_.opset() : std::max<std::int64_t>(graph_.opset(node.domain), 1);
    std::vector<Type> inputs;
    std::vector<Tensor> constants;
    for (const Use& use : node.inputs) {
      inputs.push_back(use.value == ValueId::none ? Type() : graph_[use.value].type);
      constants.push_back(use.value == ValueId::none ? Tensor() : known_[index(use.value)]);
    }
    std::vector<Type> outputs(node.outputs.size());
    if (def->infer != nullptr) {
      const std::function<std::vector<Type>(std::string_view, const std::vector<Type>&)> infer_body =
          [&](std::string_view name, const std::vector<Type>& types) { return body_types(id, name, types); };
      try {
        InferContext ctx{node, opset, inputs, constants, outputs, infer_body};
        def->infer(ctx);
      } catch (const Error&) {
        // Operands that do not fit are reported, with the operator's name, by whoever runs the graph.
        outputs.assign(node.outputs.size(), Type());
      }
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (node.outputs[i] != ValueId::none) refine(graph_[node.outputs[i]].type, outputs[i]);
    }
    try {
      fold(node, *def, opset, inputs, constants);
    } catch (const Error&) {
      // A shape beyond all memory: the run that asks for it will say so.
    }
  }

  /// Runs the node when its inputs are known and its outputs are small integers or truth values.
  void fold(const Node& node, const OpDef& def, std::int64_t opset, const std::vector<Type>& inputs,
            std::vector<Tensor> data) {
    if (!is_standard(node) || node.outputs.size() != 1 || node.outputs[0] == ValueId::none ||
        node.attrs.all.size() > 16)
      return;
    bool has_bodies = false;
    for_each_body(node, [&](const Graph&) { has_bodies = true; });
    if (has_bodies || node.op.starts_with("Random") || node.op == "Bernoulli" || node.op == "Multinomial") return;
    const bool by_shape = node.op == "Shape" || node.op == "Size";
    if (by_shape && data.size() == 1 && data[0].empty() && fully_known(inputs[0])) {
      // Only the shape is looked at: a scalar stands for the data.
      Tensor result = Tensor::of<std::int64_t>({static_cast<std::int64_t>(inputs[0].shape.size())}, inputs[0].shape);
      if (node.op == "Size") {
        result = Tensor::scalar<std::int64_t>(element_count(inputs[0].shape));
      } else if (node.attrs.has("start") || node.attrs.has("end")) {
        return;
      }
      known_[index(node.outputs[0])] = std::move(result);
      return;
    }
    for (std::size_t i = 0; i < data.size(); ++i) {
      if (node.inputs[i].value != ValueId::none && (data[i].empty() || data[i].count() > largest_folded)) return;
    }
    const Type& type = graph_[node.outputs[0]].type;
    if (node.op != "Constant" && (!type.known_dtype || type.dtype == DType::string)) return;
    if (type.known_rank && fully_known(type) && element_count(type.shape) > largest_folded) return;
    // Without a shape known beforehand, the result of what only moves or combines small operands is small too.
    if (!fully_known(type) &&
        (node.op == "Expand" || node.op == "Tile" || node.op == "ConstantOfShape" || node.op == "Range" ||
         node.op == "Pad" || node.op == "Resize" || node.op == "Upsample" || node.op == "OneHot")) {
      return;
    }
    const std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)> no_bodies;
    std::vector<Tensor> results(1);
    try {
      def.forward(OpContext{node, opset, data, results, threads_, no_bodies});
    } catch (const Error&) {
      return;
    }
    if (results[0].empty() || results[0].count() > largest_folded) return;
    graph_[node.outputs[0]].type = exact(results[0]);
    known_[index(node.outputs[0])] = std::move(results[0]);
  }

  /// Infers a body and keeps what was found in the node's attribute.
  std::vector<Type> body_types(NodeId id, std::string_view name, const std::vector<Type>& inputs) {
    const std::shared_ptr<const Graph> found = graph_[id].attrs.graph(name);
    if (found == nullptr) return {};
    body_visits_ += static_cast<std::int64_t>(found->nodes().size()) + 1;
    if (body_visits_ > most_body_visits) return {};
    auto body = std::make_shared<Graph>(*found);
    for (std::size_t i = 0; i < body->inputs.size() && i < inputs.size(); ++i)
      refine((*body)[body->inputs[i]].type, inputs[i]);
    std::vector<Type> outer;
    std::vector<Tensor> outer_data;
    for (const Use& use : graph_[id].captured) {
      outer.push_back(graph_[use.value].type);
      outer_data.push_back(known_[index(use.value)]);
    }
    Inference(*body, threads_, body_visits_).run(outer, outer_data);
    std::vector<Type> types;
    for (const Use& use : body->outputs) types.push_back(use.value == ValueId::none ? Type() : (*body)[use.value].type);
    for (Attr& attr : graph_[id].attrs.all) {
      if (attr.name == name) attr.value = std::shared_ptr<const Graph>(std::move(body));
    }
    return types;
  }

  Graph& graph_;
  Threads& threads_;
  std::int64_t& body_visits_;  // of the whole inference
  std::vector<Tensor> known_;  // by value: constants, and what they decide
};

}  // namespace

void infer_types(Graph& graph) {
  Threads alone(1);
  std::int64_t body_visits = 0;
  Inference(graph, alone, body_visits).run({}, {});
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "calib/unquantized.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "formats/base/error.h"

namespace qtool {
namespace {

class Rewriting {
 public:
  explicit Rewriting(const Graph& graph) : graph_(graph) {}

  Graph run() {
    for (const NodeId n : graph_.order()) visit(n);
    drop_unused();
    return std::move(graph_);
  }

 private:
  void visit(NodeId n) {
    const Node& node = graph_[n];
    if (node.op == "QuantizeLinear" || node.op == "DynamicQuantizeLinear") {
      if (!graph_.is_constant(node.inputs[0].value)) floats_[node.outputs[0]] = node.inputs[0].value;
    } else if (node.op == "DequantizeLinear") {
      if (const auto known = floats_.find(node.inputs[0].value); known != floats_.end()) {
        const ValueId codes = known->second;
        replace(node.outputs[0], codes);
      }
    } else if (node.op == "MatMulIntegerToFloat") {
      if (floats_.contains(node.inputs[0].value)) multiply_codes(n);
    } else if (node.op == "DynamicQuantizeMatMul") {
      product(n, input(n, 0), dequantized(n, 1, 2, 3), input(n, 4));
    } else if (node.op == "MatMulNBits") {
      graph_[n].attrs.erase("accuracy_level");
    } else if (reads_codes(node)) {
      move(n);
    }
  }

  ValueId input(NodeId n, std::size_t i) const {
    return i < graph_[n].inputs.size() ? graph_[n].inputs[i].value : ValueId::none;
  }

  bool reads_codes(const Node& node) const {
    return std::any_of(node.inputs.begin(), node.inputs.end(),
                       [&](const Use& use) { return floats_.contains(use.value); });
  }

  /// Uses of `from` read `to` from now on; a graph output keeps its name.
  void replace(ValueId from, ValueId to) {
    const bool is_output =
        std::any_of(graph_.outputs.begin(), graph_.outputs.end(), [&](const Use& use) { return use.value == from; });
    if (!is_output) return graph_.replace_uses(from, to);
    const NodeId maker = Links(graph_).producer(from);
    Node same;
    same.op = "Identity";
    same.name = graph_[maker].name;
    same.inputs = {{to, nullptr}};
    same.outputs = {from};
    graph_.erase(maker);
    graph_.add_node(std::move(same));
  }

  ValueId new_value(ValueId like, std::string_view role) {
    Value value;
    value.name = graph_.fresh_name(graph_[like].name + "/" + std::string(role));
    value.type.dtype = DType::f32;
    value.type.known_dtype = true;
    return graph_.add_value(std::move(value));
  }

  ValueId add(std::string_view op, const std::vector<ValueId>& inputs, ValueId output, Attrs attrs = {}) {
    Node node;
    node.attrs = std::move(attrs);
    node.op = op;
    node.name = graph_.fresh_name(graph_[output].name + "/" + std::string(op));
    for (const ValueId v : inputs) node.inputs.push_back({v, nullptr});
    node.outputs = {output};
    graph_.add_node(std::move(node));
    return output;
  }

  ValueId dequantized(NodeId n, std::size_t codes, std::size_t scale, std::size_t zero_point) {
    const ValueId v = input(n, codes);
    if (const auto known = floats_.find(v); known != floats_.end()) return known->second;
    std::vector<ValueId> inputs{v, input(n, scale)};
    if (input(n, zero_point) != ValueId::none) inputs.push_back(input(n, zero_point));
    Attrs attrs;
    attrs.set("axis", std::int64_t{1});  // columns of [K, N], where there is a scale for each
    return add("DequantizeLinear", inputs, new_value(v, "floats"), std::move(attrs));
  }

  /// Inputs: codes, codes, their scales, their zero points, bias.
  void multiply_codes(NodeId n) { product(n, floats_.at(input(n, 0)), dequantized(n, 1, 3, 5), input(n, 6)); }

  void product(NodeId n, ValueId x, ValueId weight, ValueId bias) {
    const ValueId y = graph_[n].outputs[0];
    graph_.erase(n);
    if (bias == ValueId::none) {
      add("MatMul", {x, weight}, y);
    } else {
      add("Add", {add("MatMul", {x, weight}, new_value(y, "product")), bias}, y);
    }
  }

  /// An operator that only moves codes does the same to floats.
  void move(NodeId n) {
    static const std::set<std::string_view> moves{
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice",     "Gather", "Expand", "Tile",
        "Split",   "Identity",  "MaxPool", "Resize",  "ReduceMax", "ReduceMin", "Pad",    "Concat", "DepthToSpace"};
    if (!moves.contains(graph_[n].op)) {
      throw Error(Code::input,
                  "node \"" + std::string(label_of(graph_, n)) + "\" (" + graph_[n].op +
                      ") computes on codes; there is no reading of it in float",
                  "write the model with pairs of QuantizeLinear and DequantizeLinear (emit form qdq)");
    }
    Node copy = graph_[n];
    for (Use& use : copy.inputs) {
      if (const auto known = floats_.find(use.value); known != floats_.end()) use.value = known->second;
    }
    // Codes are padded with the zero point, floats with nothing.
    if (copy.op == "Pad" && copy.inputs.size() > 2) copy.inputs[2].value = ValueId::none;
    copy.name = graph_.fresh_name(copy.name + "/floats");
    for (ValueId& v : copy.outputs) {
      if (v == ValueId::none) continue;
      const ValueId codes = v;
      v = new_value(codes, "floats");
      graph_[v].type.shape = graph_[codes].type.shape;
      graph_[v].type.known_rank = graph_[codes].type.known_rank;
      floats_[codes] = v;
    }
    graph_.add_node(std::move(copy));
  }

  /// Quantizers and moves of codes that nobody reads any more.
  void drop_unused() {
    for (bool again = true; again;) {
      again = false;
      const Links links(graph_);
      for (const NodeId n : graph_.nodes()) {
        const auto& outputs = graph_[n].outputs;
        const bool code_maker = std::any_of(outputs.begin(), outputs.end(), [&](ValueId v) {
          return floats_.contains(v) || graph_[n].op == "DequantizeLinear";
        });
        const bool read = std::any_of(outputs.begin(), outputs.end(),
                                      [&](ValueId v) { return v != ValueId::none && !links.consumers(v).empty(); });
        if (!code_maker || read) continue;
        graph_.erase(n);
        again = true;
      }
    }
  }

  Graph graph_;
  std::map<ValueId, ValueId> floats_;  // codes -> the floats that they stand for
};

}  // namespace

Graph without_activation_quantizers(const Graph& graph) { return Rewriting(graph).run(); }

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/run_price.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>
#include <vector>

#include "calib/op.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

template <std::size_t n>
bool is_one_of(const Node& node, const std::array<std::string_view, n>& ops) {
  return std::find(ops.begin(), ops.end(), node.op) != ops.end();
}

constexpr std::array<std::string_view, 8> shares{"Reshape",  "Squeeze",  "Unsqueeze", "Flatten",
                                                 "Identity", "Constant", "Shape",     "Size"};
/// Write their result in the place of an operand that dies with them.
constexpr std::array<std::string_view, 24> in_place{
    "Relu", "LeakyRelu",   "Sigmoid",    "Tanh", "Erf",  "Exp",      "Log",  "Neg",
    "Abs",  "Sqrt",        "Reciprocal", "Elu",  "Selu", "Softplus", "Gelu", "Mish",
    "Clip", "HardSigmoid", "HardSwish",  "Add",  "Sub",  "Mul",      "Div",  "Pow"};
constexpr std::array<std::string_view, 25> functions{
    "Softmax", "LogSoftmax", "Sigmoid",  "Tanh",   "Erf",       "Exp",   "Log",        "Pow",      "Gelu",
    "Sqrt",    "Mish",       "Sin",      "Cos",    "HardSwish", "Elu",   "Selu",       "Softplus", "Reciprocal",
    "Swish",   "QuickGelu",  "FastGelu", "Resize", "Upsample",  "PRelu", "AveragePool"};
constexpr std::array<std::string_view, 3> recurrent{"LSTM", "GRU", "RNN"};

class RunPricer {
 public:
  RunPricer(const Graph& graph, Reading reading, const Rates& rates)
      : graph_(graph), reading_(reading), rates_(rates), order_(graph.order()) {}

  RunPrice run() {
    for (const NodeId n : order_) price(graph_[n]);
    find_alive();
    return price_;
  }

 private:
  Shape shape(ValueId v) const {
    if (v == ValueId::none) return {};
    Shape s = graph_.is_constant(v) ? graph_[v].data.shape() : graph_[v].type.shape;
    for (std::int64_t& extent : s) extent = std::max<std::int64_t>(extent, 1);
    return s;
  }
  double count(ValueId v) const { return v == ValueId::none ? 0 : elements_of(graph_, v); }
  ValueId input(const Node& node, std::size_t i) const {
    return i < node.inputs.size() ? node.inputs[i].value : ValueId::none;
  }

  bool on_codes(const Node& node) const {
    return reading_ == Reading::quantized && node.inputs.size() > 1 && node.inputs[0].quant && node.inputs[1].quant;
  }

  void price(const Node& node) {
    double out = 0, largest = 0;
    for (const ValueId v : node.outputs) out += count(v);
    for (const Use& use : node.inputs) {
      if (!graph_.is_constant(use.value)) largest = std::max(largest, count(use.value));
    }
    price_.elements += out;
    price_.ns += rates_.node;
    if (const OpDef* def = find_op(node.domain, node.op);
        def != nullptr && def->prepares != nullptr && !on_codes(node)) {
      for (std::size_t i = 0; i < node.inputs.size(); ++i) {
        const ValueId v = node.inputs[i].value;
        if (graph_.is_constant(v))
          price_.kept += 4 * static_cast<std::uint64_t>(def->prepares(node, i, graph_[v].data));
      }
    }
    if (reading_ == Reading::quantized) {
      for (const Use& use : node.inputs) {
        if (use.quant && !graph_.is_constant(use.value)) price_.ns += rates_.code * count(use.value);
      }
    }
    if (is_one_of(node, shares)) return;
    if (const double macs = multiply_adds(node, out); macs > 0) {
      price_.ns += macs * rate_of(node) + out * rates_.element;
    } else if (is_one_of(node, functions)) {
      price_.ns += std::max(out, largest) * rates_.function;
    } else {
      price_.ns += std::max(out, largest) * rates_.element;
    }
  }

  double multiply_adds(const Node& node, double out) const {
    const Shape w = shape(input(node, 1)), x = shape(input(node, 0));
    const auto taps = [&] { return std::accumulate(w.begin() + 2, w.end(), 1.0, std::multiplies<>()); };
    if (node.op == "Conv" && w.size() > 2) return out * static_cast<double>(w[1]) * taps();
    if (node.op == "ConvTranspose" && w.size() > 2) return count(input(node, 0)) * static_cast<double>(w[1]) * taps();
    if (node.op == "MatMul" && !x.empty()) return out * static_cast<double>(x.back());
    if (node.op == "Gemm" && x.size() == 2) {
      return out * static_cast<double>(node.attrs.get("transA", std::int64_t{0}) != 0 ? x[0] : x[1]);
    }
    if (is_one_of(node, recurrent) && x.size() == 3) {
      return static_cast<double>(x[0] * x[1]) * (count(input(node, 1)) + count(input(node, 2)));
    }
    return 0;
  }

  double rate_of(const Node& node) const {
    if (is_one_of(node, recurrent)) return rates_.recurrent;
    if (node.op != "Conv") return on_codes(node) ? rates_.int_product : rates_.product;
    const Shape w = shape(input(node, 1));
    if (w[1] == 1 && w[0] > 1) return on_codes(node) ? rates_.int_depthwise : rates_.depthwise;
    if (on_codes(node)) return rates_.int_conv;
    if (price_keeps(node)) return rates_.conv_3x3;
    return w[1] <= 4 ? rates_.conv_few : rates_.conv;
  }

  /// Whether the convolution runs on a kernel that was transformed beforehand: larger than the kernel itself.
  bool price_keeps(const Node& node) const {
    const OpDef* def = find_op(node.domain, node.op);
    const ValueId w = input(node, 1);
    return def != nullptr && def->prepares != nullptr && graph_.is_constant(w) &&
           def->prepares(node, 1, graph_[w].data) > 2 * graph_[w].data.count();
  }

  /// Walks the graph as the executor does: a value is let go of after its last use. Values that share their bytes (a
  /// Reshape's) count as one.
  void find_alive() {
    std::vector<ValueId> owner(graph_.value_slots());
    std::vector<std::size_t> last(graph_.value_slots());
    for (const ValueId v : graph_.values()) owner[index(v)] = v;
    for (std::size_t at = 0; at < order_.size(); ++at) {
      const Node& node = graph_[order_[at]];
      for (const auto* uses : {&node.inputs, &node.captured}) {
        for (const Use& use : *uses) {
          if (use.value != ValueId::none) last[index(owner[index(use.value)])] = at;
        }
      }
      if (!is_one_of(node, shares) || input(node, 0) == ValueId::none || node.op == "Shape" || node.op == "Size")
        continue;
      for (const ValueId v : node.outputs) {
        if (v != ValueId::none) owner[index(v)] = owner[index(input(node, 0))];
      }
    }
    for (const Use& use : graph_.outputs) last[index(owner[index(use.value)])] = order_.size();
    std::vector<std::vector<ValueId>> dying(order_.size());
    for (const ValueId v : graph_.values()) {
      const bool owns = owner[index(v)] == v && !graph_.is_constant(v);
      if (owns && last[index(v)] < order_.size()) dying[last[index(v)]].push_back(v);
    }
    double now = 0, most = 0;
    for (const ValueId v : graph_.inputs) now += graph_.is_constant(v) ? 0 : bytes(v);
    for (std::size_t at = 0; at < order_.size(); ++at) {
      const Node& node = graph_[order_[at]];
      double made = 0, taken = 0;
      for (const ValueId v : node.outputs) {
        if (v != ValueId::none && owner[index(v)] == v) made += bytes(v);
      }
      for (const ValueId v : dying[at]) {
        if (is_one_of(node, in_place) && bytes(v) == made) taken = made;
      }
      now += made;
      most = std::max(most, now - taken);
      for (const ValueId v : dying[at]) now -= bytes(v);
    }
    price_.alive = static_cast<std::uint64_t>(most);
  }

  double bytes(ValueId v) const {
    if (v == ValueId::none) return 0;
    const Type& type = graph_[v].type;
    return count(v) * std::max(1, type.known_dtype ? bit_width(type.dtype) / 8 : 4);
  }

  const Graph& graph_;
  const Reading reading_;
  const Rates& rates_;
  const std::vector<NodeId> order_;
  RunPrice price_;
};

}  // namespace

double elements_of(const Graph& graph, ValueId v) {
  const Shape& shape = graph.is_constant(v) ? graph[v].data.shape() : graph[v].type.shape;
  double n = 1;
  for (const std::int64_t extent : shape) n *= static_cast<double>(std::max<std::int64_t>(extent, 1));
  return n;
}

RunPrice price_run(const Graph& graph, Reading reading, const Rates& rates) {
  return RunPricer(graph, reading, rates).run();
}

}  // namespace qtool

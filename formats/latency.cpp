// SPDX-License-Identifier: Apache-2.0
#include "formats/latency.h"

#include <algorithm>
#include <array>
#include <string>

#include "formats/ir/quant.h"
#include "formats/multiply_adds.h"
#include "formats/target.h"

namespace qtool {
namespace {

constexpr std::int64_t vector_lanes = 16;  // floats, or int32 sums, of 512 bits

std::int64_t rounded_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

/// The extents of a node's work, as KernelCost counts them.
struct Work {
  std::string kernel;
  double rows = 0, taps = 0, inputs = 0;
  std::int64_t columns = 1, depth = 0;
};

class Estimate {
 public:
  Estimate(const Graph& graph, const Target& target, bool overridable)
      : graph_(graph),
        target_(target),
        overridable_(overridable),
        links_(graph),
        precision_(graph.node_slots(), Precision::floating) {}

  std::array<double, 4> multiply_adds_by_precision() const {
    std::array<double, 4> sums{};
    for (const NodeId n : graph_.nodes()) sums[static_cast<std::size_t>(precision_of(n))] += multiply_adds(n);
    return sums;
  }

  Latency run() {
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId n : order) precision_[index(n)] = precision_of(n);
    for (const NodeId n : order) {
      const Precision precision = precision_[index(n)];
      const double macs = multiply_adds(n);
      sum_.multiply_adds += macs;
      if (precision == Precision::integer || precision == Precision::dynamic) sum_.on_codes += macs;
      if (target_.costs.empty()) continue;
      const double in_float = fused_in_float(n) ? 0 : time_of(n, Precision::floating);
      double now = in_float;
      if (absorbed(n)) now = 0;
      if (precision != Precision::floating) now = time_of(n, precision);
      sum_.in_float += in_float;
      sum_.as_decided += now;
      if (precision != Precision::floating) sum_.nodes.push_back({n, precision, in_float, now});
    }
    if (target_.costs.empty()) return std::move(sum_);
    for (const ValueId v : graph_.values()) convert(v);
    sum_.as_decided += sum_.conversions;
    return std::move(sum_);
  }

 private:
  // --- shapes

  Shape shape(ValueId v) const {
    if (v == ValueId::none) return {};
    Shape s = graph_.is_constant(v) ? graph_[v].data.shape() : graph_[v].type.shape;
    for (std::int64_t& extent : s) extent = std::max<std::int64_t>(1, extent);
    return s;
  }

  static double count(const Shape& s) {
    double n = 1;
    for (const std::int64_t extent : s) n *= static_cast<double>(extent);
    return n;
  }

  Work work_of(NodeId n, Precision precision) const {
    const Node& node = graph_[n];
    Work w;
    w.kernel = node.op;
    const Shape y = node.outputs.empty() ? Shape{} : shape(node.outputs[0]);
    if (node.op == "Conv" && node.inputs.size() >= 2) {
      const Shape weight = shape(node.inputs[1].value), x = shape(node.inputs[0].value);
      if (weight.size() < 3 || x.size() != weight.size()) return w;
      w.taps = count(weight) / static_cast<double>(weight[0] * weight[1]);
      w.columns = weight[0];
      w.depth = weight[1] * static_cast<std::int64_t>(w.taps);
      w.rows = count(y) / static_cast<double>(w.columns);
      w.inputs = w.rows * static_cast<double>(x[1]);
      const bool depthwise = weight[1] == 1 && x[1] > 1;
      if (depthwise) w.kernel = w.columns % vector_lanes == 0 ? "Conv depthwise" : "Conv depthwise ragged";
      if (!depthwise && w.taps == 1) w.kernel = "Conv 1x1";
      if (!depthwise && w.taps > 1 && weight[1] <= 4) w.kernel = "Conv few channels";
      if (precision == Precision::floating && overridable_)
        w.kernel = depthwise ? "Conv unpacked depthwise" : "Conv unpacked";
    } else if ((node.op == "MatMul" || node.op == "Gemm") && node.inputs.size() >= 2 && !y.empty()) {
      const Shape x = shape(node.inputs[0].value);
      const bool transposed = node.op == "Gemm" && node.attrs.get("transA", std::int64_t{0}) != 0;
      w.columns = y.back();
      w.depth = x.empty() ? 1 : transposed ? x.front() : x.back();
      w.rows = count(y) / static_cast<double>(w.columns);
      w.inputs = w.rows * static_cast<double>(w.depth);
    } else {
      for (const Use& use : node.inputs) w.rows = std::max(w.rows, count(shape(use.value)));
      for (const ValueId v : node.outputs) w.rows = std::max(w.rows, count(shape(v)));
    }
    return w;
  }

  double multiply_adds(NodeId n) const {
    const Work w = work_of(n, Precision::floating);
    return w.rows * static_cast<double>(w.columns) * static_cast<double>(w.depth);
  }

  // --- rates

  const KernelCost* rate(std::string_view kernel, Precision precision) const {
    for (const KernelCost& cost : target_.costs) {
      if (cost.kernel == kernel && cost.precision == precision) return &cost;
    }
    // A kernel class of an operator stands for itself where it has no row of its own.
    const std::size_t space = kernel.find(' ');
    return space == std::string_view::npos ? nullptr : rate(kernel.substr(0, space), precision);
  }

  double time_of(NodeId n, Precision precision) const {
    const Work w = work_of(n, precision);
    const KernelCost* cost = rate(w.kernel, precision);
    if (cost == nullptr) return 0;
    const auto columns = static_cast<double>(w.columns), depth = static_cast<double>(w.depth);
    const double macs = w.rows * static_cast<double>(rounded_up(w.columns, cost->lanes)) *
                        static_cast<double>(rounded_up(w.depth, cost->depth));
    return cost->call + cost->mac * macs + cost->out * w.rows * columns + cost->in * w.inputs +
           cost->tap * w.rows * w.taps + (w.columns % vector_lanes == 0 ? 0 : cost->ragged * w.rows) +
           cost->weight * columns * depth;
  }

  // --- who runs how

  static bool fixed_codes(const Use& use) {
    return use.quant && !use.quant->dynamic && !use.quant->is_bias && use.quant->grain.kind != Grain::Kind::groups &&
           use.quant->grain.kind != Grain::Kind::blocks;
  }

  /// The activation behind a kernel that its quantizer makes redundant, or the kernel's own output.
  ValueId result_of(NodeId n) const {
    const Node& node = graph_[n];
    const ValueId v = node.outputs[0];
    const auto readers = links_.consumers(v);
    if (readers.size() != 1 || readers[0].node == NodeId::none || use_at(graph_, readers[0]).quant) return v;
    const Node& next = graph_[readers[0].node];
    return next.op == "Relu" || next.op == "Clip" ? next.outputs[0] : v;
  }

  bool all_read_as_codes(ValueId v) const {
    const auto readers = links_.consumers(v);
    return !readers.empty() &&
           std::all_of(readers.begin(), readers.end(), [&](const auto& c) { return fixed_codes(use_at(graph_, c)); });
  }

  Precision precision_of(NodeId n) const {
    const Node& node = graph_[n];
    if (node.inputs.empty() || node.outputs.empty() || node.outputs[0] == ValueId::none) return Precision::floating;
    const bool product = target_.find(node, Role::product) != nullptr;
    if (product && node.inputs.size() >= 2) {
      const Quant &x = node.inputs[0].quant, &weight = node.inputs[1].quant;
      if (!weight) return Precision::floating;
      if (!x) return Precision::weight_only;
      if (x->dynamic) return Precision::dynamic;
      return fixed_codes(node.inputs[0]) && fixed_codes(node.inputs[1]) ? Precision::integer : Precision::floating;
    }
    const Ability* row = target_.find(node, Role::arithmetic);
    if (row == nullptr) row = target_.find(node, Role::move);
    const bool relu = node.op == "Relu";  // on codes it is a bound that the quantizer keeps: a move without cost
    if ((row == nullptr && !relu) || !fixed_codes(node.inputs[0])) return Precision::floating;
    return all_read_as_codes(result_of(n)) ? Precision::integer : Precision::floating;
  }

  /// A Relu or Clip between an integer kernel and the quantizer that makes it redundant.
  bool absorbed(NodeId n) const {
    const Node& node = graph_[n];
    if (node.inputs.empty() || node.inputs[0].value == ValueId::none) return false;
    const NodeId from = links_.producer(node.inputs[0].value);
    return from != NodeId::none && precision_[index(from)] == Precision::integer && !node.outputs.empty() &&
           result_of(from) == node.outputs[0];
  }

  /// What a runtime folds into its neighbours in float too: an activation or normalization behind a product, and the
  /// sigmoid of x * sigmoid(x).
  bool fused_in_float(NodeId n) const {
    static constexpr std::array<std::string_view, 7> behind_conv{
        "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "BatchNormalization"};
    const Node& node = graph_[n];
    if (node.inputs.empty() || node.inputs[0].value == ValueId::none || node.outputs.empty()) return false;
    const ValueId x = node.inputs[0].value;
    const auto readers = links_.consumers(node.outputs[0]);
    if (node.op == "Sigmoid" && readers.size() == 1 && readers[0].node != NodeId::none) {
      const Node& next = graph_[readers[0].node];
      if (next.op == "Mul" && (next.inputs[0].value == x || next.inputs[1].value == x)) return true;
    }
    const NodeId from = links_.producer(x);
    if (from == NodeId::none || links_.consumers(x).size() != 1) return false;
    const std::string_view op = graph_[from].op;
    if (node.op == "Add" && (op == "MatMul" || op == "Conv")) return true;
    return (op == "Conv" && std::find(behind_conv.begin(), behind_conv.end(), node.op) != behind_conv.end()) ||
           (op == "Gemm" && node.op == "Relu");
  }

  // --- between codes and floats

  void convert(ValueId v) {
    const auto readers = links_.consumers(v);
    if (graph_.is_constant(v) || readers.empty()) return;
    BorderLatency border;
    for (const Links::Consumer& c : readers) {
      const bool integer = c.node != NodeId::none && precision_[index(c.node)] == Precision::integer;
      if (integer && fixed_codes(use_at(graph_, c))) border.into.push_back(c.node);
      if (!integer) ++border.float_readers;
    }
    NodeId from = links_.producer(v);
    if (from != NodeId::none && absorbed(from)) from = links_.producer(graph_[from].inputs[0].value);
    if (from != NodeId::none && precision_[index(from)] == Precision::integer && all_read_as_codes(v))
      border.from = from;
    if (border.from == NodeId::none && border.into.empty()) return;
    const auto price = [&](std::string_view kernel) {
      const KernelCost* cost = rate(kernel, Precision::integer);
      return cost ? cost->call + cost->out * count(shape(v)) : 0;
    };
    border.to_codes = price("QuantizeLinear");
    border.to_floats = price("DequantizeLinear");
    if (changes_layout(border)) {
      border.to_codes += price("layout");
      border.to_floats += price("layout");
    }
    // x * sigmoid(x) is one kernel only where both read the same floats.
    for (const Links::Consumer& c : readers) {
      if (c.node != NodeId::none && graph_[c.node].op == "Sigmoid" && fused_in_float(c.node))
        border.to_floats += time_of(c.node, Precision::floating);
    }
    if (border.from != NodeId::none) sum_.conversions += border.float_readers * border.to_floats;
    if (border.from == NodeId::none) sum_.conversions += border.to_codes;
    sum_.borders.push_back(std::move(border));
  }

  /// Convolutions keep codes and floats in different orders of axes.
  bool changes_layout(const BorderLatency& border) const {
    const auto is_conv = [&](NodeId n) { return n != NodeId::none && graph_[n].op == "Conv"; };
    return is_conv(border.from) || std::any_of(border.into.begin(), border.into.end(), is_conv);
  }

  const Graph& graph_;
  const Target& target_;
  const bool overridable_;
  const Links links_;
  std::vector<Precision> precision_;  // by NodeId
  Latency sum_;
};

}  // namespace

Latency estimate_latency(const Graph& graph, const Target& target, bool overridable) {
  return Estimate(graph, target, overridable).run();
}

std::array<double, 4> multiply_adds_by_precision(const Graph& graph, const Target& target) {
  return Estimate(graph, target, false).multiply_adds_by_precision();
}

}  // namespace qtool

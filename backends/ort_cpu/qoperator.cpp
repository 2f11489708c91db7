// SPDX-License-Identifier: Apache-2.0
// Form qoperator: the groups that ONNX Runtime would fuse when it loads the pairs, fused ahead: QLinearConv, QGemm and
// their like read and write codes. Loads faster, also in older releases; only ONNX Runtime knows most of the operators.
// Works on what lower_static() wrote; a group that does not fit stays as pairs.
#include "backends/ort_cpu/ort_cpu.h"
#include "formats/ir/integer_group.h"

namespace qtool::ort_cpu {
namespace {

class Fusion {
 public:
  explicit Fusion(Lowering& l) : l_(l), g_(l.out), links_(g_) {}

  void run() {
    for (const NodeId n : g_.order()) {
      if (g_.alive(n) && g_[n].domain.empty()) fuse(n);
    }
    sweep();
  }

 private:
  std::optional<Coded> coded(ValueId v) const { return qtool::coded(g_, links_, v); }
  std::optional<Coded> quantized(ValueId v) const { return qtool::quantized(g_, links_, v); }

  void fuse(NodeId n) {
    const Node& node = g_[n];
    if (node.op == "QuantizeLinear" || node.op == "DequantizeLinear" || node.inputs.empty() || node.outputs.empty())
      return;
    if (const auto group = integer_group(g_, links_, n)) return become(n, group->node);
    if (node.op == "Concat") return concat(n);
    if (node.op == "Where") return where(n);
    if (node.op == "AveragePool" || node.op == "GlobalAveragePool" || node.op == "Softmax") return unary(n);
    if (node.op == "Relu") return relu(n);
    if (l_.target.find(node, Role::move) != nullptr) move(n);
  }

  void become(NodeId n, const Node& product) {
    g_[n].attrs = product.attrs;
    std::vector<ValueId> inputs;
    for (const Use& use : product.inputs) inputs.push_back(use.value);
    become(n, product.op, product.domain, inputs, product.outputs[0]);
  }

  void become(NodeId n, std::string_view op, std::string_view domain, const std::vector<ValueId>& inputs,
              ValueId output) {
    Node& node = g_[n];
    node.op = op;
    node.domain = domain;
    node.extras = nullptr;
    node.inputs.clear();
    for (const ValueId v : inputs) node.inputs.push_back({v, nullptr});
    node.outputs = {output};
    if (!domain.empty()) l_.use_contrib();
  }

  void unary(NodeId n) {
    const auto x = coded(g_[n].inputs[0].value), y = quantized(g_[n].outputs[0]);
    if (!x || !y) return;
    if (g_[n].op == "Softmax") g_[n].attrs.set("opset", g_.opset());
    become(n, "QLinear" + g_[n].op, "com.microsoft", {x->codes, x->scale, x->zero_point, y->scale, y->zero_point},
           y->codes);
  }

  void concat(NodeId n) {
    const auto y = quantized(g_[n].outputs[0]);
    if (!y) return;
    std::vector<ValueId> inputs{y->scale, y->zero_point};
    for (const Use& use : g_[n].inputs) {
      const auto x = coded(use.value);
      if (!x) return;
      inputs.insert(inputs.end(), {x->codes, x->scale, x->zero_point});
    }
    become(n, "QLinearConcat", "com.microsoft", inputs, y->codes);
  }

  void where(NodeId n) {
    const auto a = coded(g_[n].inputs[1].value), b = coded(g_[n].inputs[2].value), y = quantized(g_[n].outputs[0]);
    if (!a || !b || !y) return;
    become(n, "QLinearWhere", "com.microsoft",
           {g_[n].inputs[0].value, a->codes, a->scale, a->zero_point, b->codes, b->scale, b->zero_point, y->scale,
            y->zero_point},
           y->codes);
  }

  /// Same scale and zero point in and out: the operator runs on the codes.
  void move(NodeId n) {
    const auto x = coded(g_[n].inputs[0].value);
    if (!x) return;
    std::vector<ValueId> outputs;
    for (const ValueId v : g_[n].outputs) {
      const auto y = v == ValueId::none ? std::nullopt : quantized(v);
      if (!y || y->scale != x->scale || y->zero_point != x->zero_point) return;
      outputs.push_back(y->codes);
    }
    Node& node = g_[n];
    node.inputs[0] = {x->codes, nullptr};
    node.outputs = outputs;
  }

  /// A Relu on codes whose zero point is the lowest code changes nothing.
  void relu(NodeId n) {
    const auto x = coded(g_[n].inputs[0].value), y = quantized(g_[n].outputs[0]);
    if (!x || !y || y->scale != x->scale || y->zero_point != x->zero_point || !cuts_nothing(g_, g_[n], *y)) return;
    g_.replace_uses(y->codes, x->codes);
  }

  /// Erases quantizers whose codes a kernel now writes, and what nobody reads any more.
  void sweep() {
    for (bool again = true; again;) {
      again = false;
      const Links now(g_);
      std::vector<int> writers(g_.value_slots());
      for (const NodeId n : g_.nodes()) {
        for (const ValueId v : g_[n].outputs) {
          if (v != ValueId::none) ++writers[static_cast<std::size_t>(v)];
        }
      }
      for (const NodeId n : g_.nodes()) {
        const Node& node = g_[n];
        const bool ours =
            node.op == "QuantizeLinear" || node.op == "DequantizeLinear" || node.op == "Relu" || node.op == "Clip";
        if (!ours || !node.domain.empty() || node.outputs.empty()) continue;
        const auto v = node.outputs[0];
        if (!now.consumers(v).empty() && writers[static_cast<std::size_t>(v)] == 1) continue;
        --writers[static_cast<std::size_t>(v)];
        g_.erase(n);
        again = true;
      }
    }
    const Links now(g_);
    for (const ValueId v : g_.values()) {
      const bool fresh = static_cast<std::size_t>(v) >= l_.decided.value_slots();
      if (fresh && now.consumers(v).empty() && now.producer(v) == NodeId::none) g_.erase(v);
    }
  }

  Lowering& l_;
  Graph& g_;
  const Links links_;
};

}  // namespace

void fuse_pairs(Lowering& l) { Fusion(l).run(); }

}  // namespace qtool::ort_cpu

// SPDX-License-Identifier: Apache-2.0
// Form qoperator: the groups that ONNX Runtime would fuse when it loads the pairs, fused ahead: QLinearConv, QGemm and
// their like read and write codes. Loads faster, also in older releases; only ONNX Runtime knows most of the operators.
// Works on what lower_static() wrote; a group that does not fit stays as pairs.
#include <limits>

#include "backends/ort_cpu/ort_cpu.h"

namespace qtool::ort_cpu {
namespace {

/// A value as codes with their parameters.
struct Coded {
  ValueId codes = ValueId::none, scale = ValueId::none, zero_point = ValueId::none;
};

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
  std::optional<Coded> coded(ValueId v) const {
    if (v == ValueId::none) return std::nullopt;
    const NodeId n = links_.producer(v);
    if (n == NodeId::none || g_[n].op != "DequantizeLinear" || g_[n].inputs.size() < 3) return std::nullopt;
    return Coded{g_[n].inputs[0].value, g_[n].inputs[1].value, g_[n].inputs[2].value};
  }

  std::optional<NodeId> sole_reader(ValueId v) const {
    const auto all = links_.consumers(v);
    if (all.size() != 1 || all[0].node == NodeId::none || all[0].input != 0) return std::nullopt;
    return all[0].node;
  }

  /// The quantizer behind `v`, past a Relu or Clip that it makes redundant. Its codes, or nothing.
  std::optional<Coded> quantized(ValueId v) const {
    auto next = sole_reader(v);
    if (!next) return std::nullopt;
    NodeId between = NodeId::none;
    if (g_[*next].op == "Relu" || g_[*next].op == "Clip") {
      between = *next;
      next = sole_reader(g_[*next].outputs[0]);
      if (!next) return std::nullopt;
    }
    const Node& q = g_[*next];
    if (q.op != "QuantizeLinear" || q.inputs.size() < 3) return std::nullopt;
    const Coded c{q.outputs[0], q.inputs[1].value, q.inputs[2].value};
    if (between != NodeId::none && !redundant(g_[between], c)) return std::nullopt;
    return c;
  }

  bool redundant(const Node& node, const Coded& c) const {
    const float scale = to_f32(g_[c.scale].data).read<float>()[0];
    const Tensor& zero = g_[c.zero_point].data;
    const float z = to_f32(zero).read<float>()[0];
    const float lowest = zero.dtype() == DType::i8 ? -128.0F : 0.0F;
    if (node.op == "Relu") return z == lowest;
    const auto bound = [&](std::size_t i, float otherwise) {
      if (i >= node.inputs.size() || node.inputs[i].value == ValueId::none) return otherwise;
      const Tensor& data = g_[node.inputs[i].value].data;
      return data.empty() || data.count() != 1 ? -otherwise : to_f32(data).read<float>()[0];
    };
    constexpr float unbounded = std::numeric_limits<float>::infinity();
    const float slack = scale * 1e-3F;  // far below a step
    return (lowest - z) * scale >= bound(1, -unbounded) - slack &&
           (lowest + 255.0F - z) * scale <= bound(2, unbounded) + slack;
  }

  void fuse(NodeId n) {
    const Node& node = g_[n];
    if (node.op == "QuantizeLinear" || node.op == "DequantizeLinear" || node.inputs.empty() || node.outputs.empty())
      return;
    if (node.op == "Conv") return conv(n);
    if (node.op == "MatMul") return matmul(n);
    if (node.op == "Gemm") return gemm(n);
    if (node.op == "Concat") return concat(n);
    if (node.op == "Where") return where(n);
    if (node.op == "Add" || node.op == "Mul") return binary(n);
    if (node.op == "AveragePool" || node.op == "GlobalAveragePool" || node.op == "LeakyRelu" || node.op == "Sigmoid" ||
        node.op == "Softmax") {
      return unary(n);
    }
    if (node.op == "Relu") return relu(n);
    if (l_.target.find(node, Role::move) != nullptr) move(n);
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

  void conv(NodeId n) {
    const Node& node = g_[n];
    const auto x = coded(node.inputs[0].value), w = coded(node.inputs[1].value), y = quantized(node.outputs[0]);
    if (!x || !w || !y) return;
    std::vector<ValueId> inputs{x->codes, x->scale,      x->zero_point, w->codes,
                                w->scale, w->zero_point, y->scale,      y->zero_point};
    if (node.inputs.size() > 2 && node.inputs[2].value != ValueId::none) {
      const auto b = coded(node.inputs[2].value);
      if (!b || g_[b->codes].type.dtype != DType::i32) return;
      inputs.push_back(b->codes);
    }
    become(n, "QLinearConv", "", inputs, y->codes);
  }

  void matmul(NodeId n) {
    const auto a = coded(g_[n].inputs[0].value), b = coded(g_[n].inputs[1].value), y = quantized(g_[n].outputs[0]);
    if (!a || !b) return;
    if (y) {
      become(n, "QLinearMatMul", "",
             {a->codes, a->scale, a->zero_point, b->codes, b->scale, b->zero_point, y->scale, y->zero_point}, y->codes);
    } else {
      become(n, "MatMulIntegerToFloat", "com.microsoft",
             {a->codes, b->codes, a->scale, b->scale, a->zero_point, b->zero_point}, g_[n].outputs[0]);
    }
  }

  void gemm(NodeId n) {
    const Node& node = g_[n];
    const auto a = coded(node.inputs[0].value), b = coded(node.inputs[1].value), y = quantized(node.outputs[0]);
    if (!a || !b) return;
    std::vector<ValueId> inputs{a->codes, a->scale, a->zero_point, b->codes, b->scale, b->zero_point};
    ValueId c = ValueId::none;
    if (node.inputs.size() > 2 && node.inputs[2].value != ValueId::none) {
      const auto bias = coded(node.inputs[2].value);
      if (!bias) return;
      c = bias->codes;
    }
    if (c != ValueId::none || y) inputs.push_back(c);
    if (y) inputs.insert(inputs.end(), {y->scale, y->zero_point});
    g_[n].attrs.erase("beta");
    become(n, "QGemm", "com.microsoft", inputs, y ? y->codes : node.outputs[0]);
  }

  void binary(NodeId n) {
    const auto a = coded(g_[n].inputs[0].value), b = coded(g_[n].inputs[1].value), y = quantized(g_[n].outputs[0]);
    if (!a || !b || !y) return;
    become(n, "QLinear" + g_[n].op, "com.microsoft",
           {a->codes, a->scale, a->zero_point, b->codes, b->scale, b->zero_point, y->scale, y->zero_point}, y->codes);
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
    if (!x || !y || y->scale != x->scale || y->zero_point != x->zero_point || !redundant(g_[n], *y)) return;
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

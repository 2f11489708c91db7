// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/integer_group.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace qtool {
namespace {

std::optional<NodeId> sole_reader(const Links& links, ValueId v) {
  const auto all = links.consumers(v);
  if (all.size() != 1 || all[0].node == NodeId::none || all[0].input != 0) return std::nullopt;
  return all[0].node;
}

ValueId input(const Node& node, std::size_t i) { return i < node.inputs.size() ? node.inputs[i].value : ValueId::none; }

bool has_constants(const Graph& g, const Coded& c) {
  if (!g.is_constant(c.scale) || !g.is_constant(c.zero_point)) return false;
  const Tensor &scale = g[c.scale].data, &zero = g[c.zero_point].data;
  return scale.dtype() == DType::f32 && scale.count() > 0 && scale.count() == zero.count();
}

bool is_one_byte(const Graph& g, const Coded& c) {
  const DType t = g[c.zero_point].data.dtype();
  return has_constants(g, c) && (t == DType::i8 || t == DType::u8);
}

bool is_uniform(const Graph& g, const Coded& c) { return is_one_byte(g, c) && g[c.scale].data.count() == 1; }

/// One scale, or one per index of `axis`; `v` is what the codes are dequantized to.
bool is_along(const Graph& g, const Links& links, ValueId v, const Coded& c, std::int64_t axis) {
  if (!is_one_byte(g, c)) return false;
  const Attrs& attrs = g[links.producer(v)].attrs;
  if (attrs.get("block_size", std::int64_t{0}) != 0) return false;
  return g[c.scale].data.count() == 1 || attrs.get("axis", std::int64_t{1}) == axis;
}

/// int32 codes, zero point 0, scale = scale of x * scale of w.
bool is_bias(const Graph& g, const Coded& bias, const Coded& x, const Coded& w) {
  if (!has_constants(g, bias) || g[bias.zero_point].data.dtype() != DType::i32) return false;
  const auto zeros = g[bias.zero_point].data.read<std::int32_t>();
  const auto s = g[bias.scale].data.read<float>(), sw = g[w.scale].data.read<float>();
  const float sx = g[x.scale].data.read<float>()[0];
  if (s.size() < sw.size() || std::any_of(zeros.begin(), zeros.end(), [](std::int32_t z) { return z != 0; }))
    return false;
  constexpr float rounding = 1e-6F;  // of the product, relative
  for (std::size_t i = 0; i < s.size(); ++i) {
    const float product = sx * sw[i % sw.size()];
    if (!(std::abs(s[i] - product) <= rounding * std::abs(product))) return false;
  }
  return true;
}

struct Group {
  const Graph& g;
  const Links& links;
  const Node& node;
  std::optional<Coded> a, b, y, bias;

  Group(const Graph& graph, const Links& l, NodeId n) : g(graph), links(l), node(graph[n]) {
    a = coded(g, links, input(node, 0));
    b = coded(g, links, input(node, 1));
    bias = coded(g, links, input(node, 2));
    y = quantized(g, links, node.outputs[0]);
    if (y && !is_uniform(g, *y)) y.reset();
  }

  bool fits(std::int64_t axis) const {
    return a && b && is_uniform(g, *a) && is_along(g, links, input(node, 1), *b, axis);
  }
  bool has_bias() const { return input(node, 2) != ValueId::none; }

  IntegerGroup become(std::string_view op, std::string_view domain, const std::vector<ValueId>& inputs) const {
    IntegerGroup out;
    out.node.name = node.name;
    out.node.op = op;
    out.node.domain = domain;
    out.node.attrs = node.attrs;
    for (const ValueId v : inputs) out.node.inputs.push_back({v, nullptr});
    out.node.outputs = {y ? y->codes : node.outputs[0]};
    out.last = links.producer(out.node.outputs[0]);
    for (const Use& use : node.inputs) {
      if (use.value != ValueId::none) out.inside.push_back(use.value);
    }
    for (ValueId v = node.outputs[0]; v != out.node.outputs[0]; v = g[*sole_reader(links, v)].outputs[0]) {
      out.inside.push_back(v);
    }
    return out;
  }

  std::optional<IntegerGroup> conv() const {
    if (!fits(0) || !y || (has_bias() && (!bias || !is_bias(g, *bias, *a, *b)))) return std::nullopt;
    std::vector<ValueId> inputs{a->codes, a->scale,      a->zero_point, b->codes,
                                b->scale, b->zero_point, y->scale,      y->zero_point};
    if (has_bias()) inputs.push_back(bias->codes);
    return become("QLinearConv", "", inputs);
  }

  std::optional<IntegerGroup> matmul() const {
    const Type& type = g[b ? b->codes : node.inputs[1].value].type;
    const auto rank = static_cast<std::int64_t>(type.shape.size());
    if (!type.known_rank || rank < 2 || !fits(rank - 1)) return std::nullopt;
    if (!y) {
      return become("MatMulIntegerToFloat", "com.microsoft",
                    {a->codes, b->codes, a->scale, b->scale, a->zero_point, b->zero_point});
    }
    return become("QLinearMatMul", "",
                  {a->codes, a->scale, a->zero_point, b->codes, b->scale, b->zero_point, y->scale, y->zero_point});
  }

  std::optional<IntegerGroup> gemm() const {
    const bool transposed = node.attrs.get("transB", std::int64_t{0}) != 0;
    if (!fits(transposed ? 0 : 1)) return std::nullopt;
    std::vector<ValueId> inputs{a->codes, a->scale, a->zero_point, b->codes, b->scale, b->zero_point};
    if (has_bias()) {
      if (!bias || !is_bias(g, *bias, *a, *b) || node.attrs.get("beta", 1.0F) != 1) return std::nullopt;
      if (node.attrs.get("alpha", 1.0F) != 1) return std::nullopt;  // would scale the bias too
      inputs.push_back(bias->codes);
    } else if (y) {
      inputs.push_back(ValueId::none);
    }
    if (y) inputs.insert(inputs.end(), {y->scale, y->zero_point});
    IntegerGroup out = become("QGemm", "com.microsoft", inputs);
    out.node.attrs.erase("beta");
    return out;
  }

  std::optional<IntegerGroup> element_by_element(std::size_t operands) const {
    if (!a || !y || !is_uniform(g, *a)) return std::nullopt;
    std::vector<ValueId> inputs{a->codes, a->scale, a->zero_point};
    if (operands == 2) {
      if (!b || !is_uniform(g, *b)) return std::nullopt;
      inputs.insert(inputs.end(), {b->codes, b->scale, b->zero_point});
    }
    inputs.insert(inputs.end(), {y->scale, y->zero_point});
    return become("QLinear" + node.op, "com.microsoft", inputs);
  }

  /// Codes keep their meaning where they only move: the same scale and zero point in front and behind.
  std::optional<IntegerGroup> move() const {
    if (!y || node.outputs.size() != 1) return std::nullopt;
    const auto same = [&](ValueId x, ValueId z) {
      return x == z ||
             (g[x].data.dtype() == g[z].data.dtype() && std::ranges::equal(g[x].data.bytes(), g[z].data.bytes()));
    };
    std::vector<ValueId> inputs;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      if (i > 0 && node.op != "Concat") {
        inputs.push_back(node.inputs[i].value);
        continue;
      }
      const auto x = coded(g, links, node.inputs[i].value);
      if (!x || !is_uniform(g, *x) || !same(x->scale, y->scale) || !same(x->zero_point, y->zero_point)) {
        return std::nullopt;
      }
      inputs.push_back(x->codes);
    }
    return become(node.op, "", inputs);
  }
};

}  // namespace

std::optional<Coded> coded(const Graph& g, const Links& links, ValueId v) {
  if (v == ValueId::none) return std::nullopt;
  const NodeId n = links.producer(v);
  if (n == NodeId::none || g[n].op != "DequantizeLinear" || g[n].inputs.size() < 3) return std::nullopt;
  if (g[n].inputs[2].value == ValueId::none) return std::nullopt;
  return Coded{g[n].inputs[0].value, g[n].inputs[1].value, g[n].inputs[2].value};
}

std::optional<Coded> quantized(const Graph& g, const Links& links, ValueId v) {
  auto next = sole_reader(links, v);
  if (!next) return std::nullopt;
  NodeId between = NodeId::none;
  if (g[*next].op == "Relu" || g[*next].op == "Clip") {
    between = *next;
    next = sole_reader(links, g[*next].outputs[0]);
    if (!next) return std::nullopt;
  }
  const Node& q = g[*next];
  if (q.op != "QuantizeLinear" || q.inputs.size() < 3 || q.inputs[2].value == ValueId::none) return std::nullopt;
  const Coded c{q.outputs[0], q.inputs[1].value, q.inputs[2].value};
  if (between != NodeId::none && !cuts_nothing(g, g[between], c)) return std::nullopt;
  return c;
}

bool cuts_nothing(const Graph& g, const Node& node, const Coded& c) {
  if (!is_uniform(g, c)) return false;
  const float scale = g[c.scale].data.read<float>()[0];
  const Tensor& zero = g[c.zero_point].data;
  const float z = to_f32(zero).read<float>()[0];
  const float lowest = zero.dtype() == DType::i8 ? -128.0F : 0.0F;
  if (node.op == "Relu") return z == lowest;
  const auto bound = [&](std::size_t i, float otherwise) {
    if (input(node, i) == ValueId::none) return otherwise;
    const Tensor& data = g[node.inputs[i].value].data;
    return data.empty() || data.count() != 1 ? -otherwise : to_f32(data).read<float>()[0];
  };
  constexpr float unbounded = std::numeric_limits<float>::infinity();
  const float slack = scale * 1e-3F;  // far below a step
  return (lowest - z) * scale >= bound(1, -unbounded) - slack &&
         (lowest + 255.0F - z) * scale <= bound(2, unbounded) + slack;
}

std::optional<IntegerGroup> integer_group(const Graph& g, const Links& links, NodeId n) {
  const Node& node = g[n];
  if (!node.domain.empty() || node.inputs.empty() || node.outputs.empty()) return std::nullopt;
  if (node.op == "LeakyRelu" || node.op == "Sigmoid") return Group(g, links, n).element_by_element(1);
  if (node.inputs.size() < 2) return std::nullopt;
  if (node.op == "Conv") return Group(g, links, n).conv();
  if (node.op == "MatMul") return Group(g, links, n).matmul();
  if (node.op == "Gemm") return Group(g, links, n).gemm();
  if (node.op == "Add" || node.op == "Mul") return Group(g, links, n).element_by_element(2);
  return std::nullopt;
}

std::optional<IntegerGroup> moved_codes(const Graph& g, const Links& links, NodeId n) {
  static constexpr std::array<std::string_view, 12> moves{"Concat",  "DepthToSpace", "Expand",    "Flatten",
                                                          "Gather",  "MaxPool",      "Reshape",   "Slice",
                                                          "Squeeze", "Tile",         "Transpose", "Unsqueeze"};
  const Node& node = g[n];
  if (!node.domain.empty() || std::find(moves.begin(), moves.end(), node.op) == moves.end()) return std::nullopt;
  if (node.inputs.empty() || node.outputs.empty()) return std::nullopt;
  return Group(g, links, n).move();
}

}  // namespace qtool

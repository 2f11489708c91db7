// SPDX-License-Identifier: Apache-2.0
#include "cli/node_inputs.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "calib/ops/packed_codes.h"
#include "formats/ir/quant.h"
#include "passes/rewrite.h"

namespace qtool {
namespace {

/// Where an operator on codes has its operands: three inputs each, -1: none.
struct Form {
  std::string_view op, in_float;
  struct Place {
    int codes, scale, zero_point;
  } x, weight;
  int bias;
};
constexpr std::array<Form, 5> forms{{{"QLinearConv", "Conv", {0, 1, 2}, {3, 4, 5}, 8},
                                     {"QLinearMatMul", "MatMul", {0, 1, 2}, {3, 4, 5}, -1},
                                     {"QGemm", "Gemm", {0, 1, 2}, {3, 4, 5}, 6},
                                     {"DynamicQuantizeMatMul", "MatMul", {0, -1, -1}, {1, 2, 3}, 4},
                                     {"MatMulIntegerToFloat", "MatMul", {0, 2, 4}, {1, 3, 5}, 6}}};

const Form* form_of(const Node& node) {
  const auto found = std::find_if(forms.begin(), forms.end(), [&](const Form& f) { return f.op == node.op; });
  return found == forms.end() ? nullptr : &*found;
}

ValueId input_at(const Node& node, int i) {
  return i < 0 ? ValueId::none : input_of(node, static_cast<std::size_t>(i));
}

Tensor constant_at(const Graph& graph, ValueId v) { return graph.is_constant(v) ? graph[v].data : Tensor(); }

void set_constant(NodeInput& o, const Graph& graph, ValueId v) {
  o.constant = true;
  o.tensor = graph[v].name;
  o.format = name_of(graph[v].data.dtype());
  o.shape = graph[v].data.shape();
  o.codes = graph[v].data;
}

void set_scales(NodeInput& o, const Tensor& scale, const Tensor& zero_point, int axis, std::int64_t group) {
  o.scale = scale.empty() ? Tensor() : to_f32(scale);
  o.zero_point = zero_point;
  o.axis = o.scale.count() > 1 ? axis : -1;
  o.group = group;
}

/// A value as its reader sees it, through DequantizeLinear.
NodeInput seen(const Graph& graph, const Links& links, int place, ValueId v) {
  NodeInput o;
  o.input = place;
  if (graph.is_constant(v)) {
    set_constant(o, graph, v);
    return o;
  }
  o.tensor = graph[v].name;
  const NodeId producer = links.producer(v);
  if (producer == NodeId::none || !is_op(graph[producer], "DequantizeLinear")) return o;
  const Node& node = graph[producer];
  const ValueId codes = input_of(node, 0);
  const Tensor scale = constant_at(graph, input_of(node, 1)), zero = constant_at(graph, input_of(node, 2));
  auto axis = static_cast<int>(node.attrs.get("axis", std::int64_t{1}));
  if (graph.is_constant(codes)) {
    set_constant(o, graph, codes);
    if (axis < 0) axis += static_cast<int>(o.shape.size());
    o.codes = bit_width(o.codes.dtype()) <= 16 ? unpack_codes(o.codes) : o.codes;
    o.dequantizer = producer;
  } else {
    const NodeId quantizer = links.producer(codes);
    const bool pair = quantizer != NodeId::none && is_op(graph[quantizer], "QuantizeLinear");
    o.tensor = graph[pair ? graph[quantizer].inputs[0].value : codes].name;
    o.format = zero.empty() ? "u8" : std::string(name_of(zero.dtype()));
  }
  set_scales(o, scale, zero, axis, node.attrs.get("block_size", std::int64_t{0}));
  return o;
}

/// An operand of an operator that takes codes.
NodeInput coded(const Graph& graph, const Links& links, const Node& node, int place, const Form::Place& at) {
  const ValueId v = input_at(node, at.codes);
  const Tensor scale = constant_at(graph, input_at(node, at.scale));
  const Tensor zero = constant_at(graph, input_at(node, at.zero_point));
  NodeInput o;
  o.input = place;
  if (graph.is_constant(v)) {
    set_constant(o, graph, v);
  } else {
    const NodeId quantizer = links.producer(v);
    const bool made = quantizer != NodeId::none && is_op(graph[quantizer], "QuantizeLinear");
    o.tensor = graph[made ? graph[quantizer].inputs[0].value : v].name;
    if (!scale.empty()) o.format = zero.empty() ? "u8" : std::string(name_of(zero.dtype()));
  }
  const int columns = node.op == "QLinearConv" || node.attrs.get("transB", std::int64_t{0}) != 0 ? 0 : 1;
  set_scales(o, scale, zero, columns, 0);
  return o;
}

/// An int32 bias has the scale of the product.
void scale_bias(const NodeInput& x, const NodeInput& weight, NodeInput& bias) {
  if (!bias.constant || bias.codes.dtype() != DType::i32 || x.scale.count() != 1 || weight.scale.empty()) return;
  Tensor scale = weight.scale;
  for (float& s : scale.write<float>()) s *= x.scale.read<float>()[0];
  set_scales(bias, scale, {}, 0, 0);
}

/// [rows, columns] as [columns, rows].
template <class T>
Tensor turned(const Tensor& t, std::int64_t rows, std::int64_t columns) {
  Tensor result(t.dtype(), {columns, rows});
  const auto in = t.read<T>();
  const auto out = result.write<T>();
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      out[static_cast<std::size_t>(c * rows + r)] = in[static_cast<std::size_t>(r * columns + c)];
    }
  }
  return result;
}

/// The weight of MatMulNBits as MatMul would have it, [K, N]; empty where the node is not as the operator asks.
std::optional<NodeInput> blocked_weight(const Graph& graph, const Node& node) {
  const Tensor packed = constant_at(graph, input_of(node, 1)), scale = constant_at(graph, input_of(node, 2));
  const Tensor zero = constant_at(graph, input_of(node, 3));
  const std::int64_t n = node.attrs.get("N", std::int64_t{0}), k = node.attrs.get("K", std::int64_t{0});
  const std::int64_t bits = node.attrs.get("bits", std::int64_t{4});
  const std::int64_t block = node.attrs.get("block_size", std::int64_t{0});
  constexpr std::int64_t most = std::int64_t{1} << 31;
  if (n <= 0 || k <= 0 || n > most || k > most || block < 16 || block > 65536 || !packs_into_bytes(bits)) return {};
  const std::int64_t blocks = (k + block - 1) / block, row = blocks * block * bits / 8;
  const std::int64_t zero_row = (blocks * bits + 7) / 8;
  if (static_cast<std::int64_t>(packed.size_bytes()) != n * row || scale.count() != n * blocks) return {};
  const bool packed_zeros = !zero.empty() && zero.dtype() == DType::u8;
  if (!zero.empty() && zero.count() != (packed_zeros ? n * zero_row : n * blocks)) return {};
  NodeInput o;
  o.input = 1;
  o.constant = true;
  o.tensor = graph[input_of(node, 1)].name;
  o.format = std::to_string(bits) + " bits";
  o.shape = {k, n};
  Tensor codes(DType::u8, {n, k}), zeros(DType::i32, {n, blocks});
  const auto out = codes.write<std::uint8_t>();
  const auto points = zeros.write<std::int32_t>();
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      out[static_cast<std::size_t>(r * k + c)] =
          static_cast<std::uint8_t>(code_at(packed.bytes().data() + r * row, c * bits, bits));
    }
    for (std::int64_t b = 0; b < blocks; ++b) {
      const auto middle = static_cast<std::uint32_t>(1U << (bits - 1));
      const std::uint32_t z = packed_zeros ? code_at(zero.bytes().data() + r * zero_row, b * bits, bits) : middle;
      points[static_cast<std::size_t>(r * blocks + b)] = static_cast<std::int32_t>(z);
    }
  }
  o.codes = turned<std::uint8_t>(codes, n, k);
  set_scales(o, turned<float>(to_f32(scale), n, blocks), turned<std::int32_t>(zeros, n, blocks), 0, block);
  if (!zero.empty() && !packed_zeros) o.zero_point = turned<float>(to_f32(zero), n, blocks);
  return o;
}

}  // namespace

bool is_conversion(const Node& node) {
  return is_op(node, "QuantizeLinear") || is_op(node, "DequantizeLinear") || is_op(node, "DynamicQuantizeLinear");
}

std::string float_operator(const Node& node) {
  const Form* form = form_of(node);
  return form ? std::string(form->in_float) : node.op == "MatMulNBits" ? "MatMul" : node.op;
}

std::vector<NodeInput> inputs_of(const Graph& graph, const Links& links, NodeId id) {
  const Node& node = graph[id];
  std::vector<NodeInput> all;
  const auto add = [&](int place, ValueId v) {
    if (v != ValueId::none) all.push_back(seen(graph, links, place, v));
  };
  if (const Form* form = form_of(node)) {
    all.push_back(coded(graph, links, node, 0, form->x));
    all.push_back(coded(graph, links, node, 1, form->weight));
    add(2, input_at(node, form->bias));
    if (all.size() == 3) scale_bias(all[0], all[1], all[2]);
    return all;
  }
  if (node.op == "MatMulNBits") {
    if (auto weight = blocked_weight(graph, node)) {
      add(0, input_of(node, 0));
      all.push_back(std::move(*weight));
      add(2, input_of(node, 5));
      return all;
    }
  }
  for (std::size_t i = 0; i < node.inputs.size(); ++i) add(static_cast<int>(i), node.inputs[i].value);
  for (std::size_t i = 0; i < node.captured.size(); ++i) add(-1 - static_cast<int>(i), node.captured[i].value);
  return all;
}

Tensor real_numbers(const Graph& graph, const NodeInput& o, Threads& threads) {
  if (o.dequantizer != NodeId::none) {
    std::vector<Tensor> inputs;
    for (const Use& use : graph[o.dequantizer].inputs) inputs.push_back(constant_at(graph, use.value));
    const auto outputs = evaluate_node(graph, o.dequantizer, inputs, threads);
    return outputs ? to_f32(outputs->at(0)) : Tensor();
  }
  if (o.codes.dtype() == DType::string || o.codes.dtype() == DType::c64 || o.codes.dtype() == DType::c128) return {};
  Tensor numbers = to_f32(o.codes);
  if (o.scale.empty()) return numbers;
  const Tensor zero = o.zero_point.empty() ? Tensor() : to_f32(o.zero_point);
  std::int64_t inner = 1;  // elements between neighbours along the axis
  const auto axis = static_cast<std::size_t>(std::max(o.axis, 0));
  if (o.axis >= 0 && axis >= o.shape.size()) return {};
  for (std::size_t i = axis + 1; o.axis >= 0 && i < o.shape.size(); ++i) inner *= o.shape[i];
  const std::int64_t extent = o.axis < 0 ? 1 : o.shape[axis], group = std::max<std::int64_t>(o.group, 1);
  const std::int64_t groups = (extent + group - 1) / group;
  const auto scale = o.scale.read<float>();
  const std::int64_t needed = o.axis < 0    ? 1
                              : o.group > 0 ? numbers.count() / std::max<std::int64_t>(extent, 1) * groups
                                            : extent;
  if (static_cast<std::int64_t>(scale.size()) != needed) return {};
  if (!zero.empty() && zero.count() != needed && zero.count() != 1) return {};
  const auto out = numbers.write<float>();
  for (std::int64_t i = 0; i < numbers.count(); ++i) {
    const std::int64_t along = i / inner % extent, outer = i / inner / extent;
    const std::int64_t at = o.axis < 0 ? 0 : o.group > 0 ? (outer * groups + along / group) * inner + i % inner : along;
    const float z = zero.empty() ? 0 : zero.read<float>()[static_cast<std::size_t>(zero.count() == 1 ? 0 : at)];
    float& x = out[static_cast<std::size_t>(i)];
    x = scale[static_cast<std::size_t>(at)] * (x - z);
  }
  return numbers;
}

}  // namespace qtool

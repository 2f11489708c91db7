// SPDX-License-Identifier: Apache-2.0
#include "passes/product.h"
#include "formats/ir/absent.h"

#include <algorithm>
#include <numeric>

namespace qtool {
namespace {

std::int64_t taps_of(const Shape& shape) {
  return std::accumulate(shape.begin() + 2, shape.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

std::optional<Product> product_of(const Graph& graph, NodeId id) {
  const Node& node = graph[id];
  if (!node.domain.empty() || node.outputs.size() != 1 || node.outputs[0] == ValueId::none) return std::nullopt;
  const bool conv = node.op == "Conv", transposed = node.op == "ConvTranspose", gemm = node.op == "Gemm";
  if (!conv && !transposed && !gemm && node.op != "MatMul") return std::nullopt;
  if (input_of(node, 0) == ValueId::none) return std::nullopt;
  const Tensor* weight = fixed_constant(graph, input_of(node, Product::weight_input));
  if (weight == nullptr || !is_float(weight->dtype()) || weight->count() == 0) return std::nullopt;
  const Shape& shape = weight->shape();
  Product p;
  p.node = id;
  p.spatial = conv || transposed;
  p.takes_bias = node.op != "MatMul";
  if (p.spatial ? shape.size() < 3 : shape.size() != 2) return std::nullopt;
  p.a = shape[0];
  p.b = shape[1];
  if (p.spatial) {
    p.taps = taps_of(shape);
    p.groups = node.attrs.get("group", std::int64_t{1});
    if (p.groups < 1 || p.a % p.groups != 0) return std::nullopt;
  }
  p.out_first = conv || (gemm && node.attrs.get("transB", std::int64_t{0}) != 0);
  return p;
}

std::optional<std::vector<double>> per_channel(const Tensor& constant, std::int64_t channels, std::int64_t rank,
                                               std::int64_t axis) {
  if (!is_float(constant.dtype())) return std::nullopt;
  const Shape& shape = constant.shape();
  if (constant.rank() > rank && constant.count() != 1) return std::nullopt;
  const std::int64_t from_front = axis < 0 ? axis + rank : axis;
  if (is_absent(constant)) return std::nullopt;  // one number per channel is small enough to be here
  std::vector<double> values = to_doubles(constant);
  if (values.size() == 1) return std::vector<double>(static_cast<std::size_t>(channels), values[0]);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::int64_t aligned = static_cast<std::int64_t>(i) + rank - constant.rank();
    if (shape[i] != (aligned == from_front ? channels : 1)) return std::nullopt;
  }
  return values;
}

std::optional<std::vector<double>> bias_of(const Graph& graph, const Product& p) {
  const Node& node = graph[p.node];
  const ValueId bias = p.takes_bias ? input_of(node, Product::bias_input) : ValueId::none;
  if (bias == ValueId::none) return std::vector<double>(static_cast<std::size_t>(p.out_channels()));
  const Tensor* data = fixed_constant(graph, bias);
  if (data == nullptr) return std::nullopt;
  if (p.spatial) {
    if (data->rank() != 1 || data->count() != p.out_channels()) return std::nullopt;
    return to_doubles(*data);
  }
  auto values = per_channel(*data, p.out_channels(), 2, 1);
  if (values) {
    for (double& x : *values) x *= node.attrs.get("beta", 1.0F);
  }
  return values;
}

bool set_bias(Graph& graph, const Product& p, std::span<const double> bias) {
  Node& node = graph[p.node];
  const DType dtype = graph[node.inputs[Product::weight_input].value].data.dtype();
  auto data = from_doubles(bias, {p.out_channels()}, dtype);
  if (!data) return false;
  if (node.attrs.has("beta")) node.attrs.erase("beta");
  if (input_of(node, Product::bias_input) != ValueId::none) {
    set_constant_input(graph, p.node, Product::bias_input, std::move(*data));
    return true;
  }
  const ValueId added = add_constant(graph, label(graph, p.node) + ".bias", std::move(*data));
  graph[p.node].inputs.resize(Product::bias_input + 1);
  graph[p.node].inputs[Product::bias_input].value = added;
  return true;
}

std::optional<Tensor> scaled_weight(const Tensor& weight, const Product& p, std::span<const double> by_output,
                                    std::span<const double> by_input) {
  if (is_absent(weight)) return absent(weight.dtype(), weight.shape());
  std::vector<double> w = to_doubles(weight);
  p.for_each([&](std::size_t out, std::size_t in, std::size_t e) {
    w[e] *= (by_output.empty() ? 1.0 : by_output[out]) * (by_input.empty() ? 1.0 : by_input[in]);
  });
  return from_doubles(w, weight.shape(), weight.dtype());
}

std::optional<AddedBias> added_bias(const Graph& graph, const Links& links, const Product& p) {
  if (p.takes_bias) return std::nullopt;
  const auto consumer = sole_consumer(graph, links, graph[p.node].outputs[0]);
  if (!consumer || !is_op(graph[consumer->node], "Add")) return std::nullopt;
  const Node& add = graph[consumer->node];
  const std::size_t other = consumer->input == 0 ? 1 : 0;
  const Tensor* data = fixed_constant(graph, input_of(add, other));
  if (data == nullptr || !per_channel(*data, p.out_channels(), std::max<std::int64_t>(data->rank(), 1), -1)) {
    return std::nullopt;
  }
  return AddedBias{consumer->node, other};
}

}  // namespace qtool

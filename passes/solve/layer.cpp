// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/layer.h"

#include <algorithm>
#include <map>
#include <set>

#include "passes/rewrite.h"

namespace qtool::solve {
namespace {

std::size_t scale_place(const Grain& grain, const Shape& shape, std::size_t element) {
  if (grain.kind == Grain::Kind::tensor) return 0;
  const Shape scales = scale_shape(grain, shape);
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t a = shape.size(); a-- > 0;) {
    at[a] = static_cast<std::int64_t>(element) % shape[a];
    element /= static_cast<std::size_t>(shape[a]);
  }
  const auto axis = static_cast<std::size_t>(grain.axis);
  if (grain.kind == Grain::Kind::axis) return static_cast<std::size_t>(at[axis]);
  if (grain.kind == Grain::Kind::groups) at[axis] /= grain.group;
  if (grain.kind == Grain::Kind::blocks) {
    at[shape.size() - 2] /= grain.group;
    at[shape.size() - 1] /= grain.group2;
  }
  std::int64_t place = 0;
  for (std::size_t a = 0; a < shape.size(); ++a) place = place * scales[a] + at[a];
  return static_cast<std::size_t>(place);
}

std::int64_t gates_of(std::string_view op) { return op == "LSTM" ? 4 : op == "GRU" ? 3 : op == "RNN" ? 1 : 0; }

}  // namespace

std::vector<Layer> Layer::of(const Graph& graph, NodeId n) {
  const Node& node = graph[n];
  std::vector<Layer> layers;
  if (const auto product = product_of(graph, n)) {
    layers.emplace_back(graph, *product);
  } else if (is_op(node, "MatMul") && fits(graph, {n, Product::weight_input})) {
    layers.push_back(Layer(graph, {n, Product::weight_input}, Kind::slices));
  } else if (node.domain.empty() && gates_of(node.op) != 0) {
    if (fits(graph, {n, 1})) layers.push_back(Layer(graph, {n, 1}, Kind::steps));
    if (fits(graph, {n, 2})) layers.push_back(Layer(graph, {n, 2}, Kind::states));
  }
  return layers;
}

bool Layer::fits(const Graph& graph, WeightPlace place) {
  const Node& node = graph[place.node];
  const Tensor* weight = fixed_constant(graph, input_of(node, place.input));
  if (weight == nullptr || !is_float(weight->dtype()) || weight->count() == 0 || weight->rank() < 3) return false;
  if (input_of(node, 0) == ValueId::none || node.op == "MatMul") return input_of(node, 0) != ValueId::none;
  const Shape& shape = weight->shape();
  const std::int64_t directions = node.attrs.get("direction", "forward") == std::string("bidirectional") ? 2 : 1;
  return shape.size() == 3 && shape[0] == directions && shape[1] % gates_of(node.op) == 0 &&
         (place.input == 1 || shape[1] == gates_of(node.op) * shape[2]);
}

Layer::Layer(const Graph& graph, const Product& product)
    : Layer(graph, {product.node, Product::weight_input}, product.spatial ? Kind::patches : Kind::rows) {
  matrices_ = product.groups;
  taps_ = product.taps;
  out_first_ = product.out_first;
  turned_ = op_ == "Gemm" && attrs_.get("transA", std::int64_t{0}) != 0;
  if (product.spatial && !product.out_first) {  // ConvTranspose
    m_ = product.b;
    n_ = product.a / product.groups * product.taps;
  } else {
    m_ = product.out_first ? product.a / product.groups : product.b;
    n_ = (product.out_first ? product.b : product.a) * product.taps;
  }
}

Layer::Layer(const Graph& graph, WeightPlace place, Kind kind)
    : place_(place),
      kind_(kind),
      reads_{0},
      shape_(graph[use_at(graph, place).value].data.shape()),
      attrs_(graph[place.node].attrs),
      op_(graph[place.node].op),
      matrices_(shape_[0]) {
  const auto last = [&](std::size_t k) { return shape_[shape_.size() - k]; };
  if (kind == Kind::slices) {
    m_ = last(1), n_ = last(2);
    matrices_ = graph[use_at(graph, place).value].data.count() / (m_ * n_);
  }
  if (kind != Kind::steps && kind != Kind::states) return;
  constexpr std::size_t lengths = 4;
  m_ = last(2), n_ = last(1);
  out_first_ = true;
  const Node& node = graph[place.node];
  for (std::size_t i = 1; i < node.inputs.size(); ++i) {
    if (input_of(node, i) != ValueId::none && (kind == Kind::states || i == lengths)) reads_.push_back(i);
  }
  if (kind == Kind::states && op_ == "GRU" && attrs_.get("linear_before_reset", std::int64_t{0}) == 0) {
    matrices_ *= gates_of(op_);
    m_ = n_;
  }
}

std::pair<ValueId, std::int64_t> Layer::extent(const Graph& graph) const {
  const Node& node = graph[place_.node];
  if (kind_ != Kind::steps && kind_ != Kind::states) return {node.outputs[0], m_ * matrices_};
  const Shape& w = graph[node.inputs[1].value].data.shape();
  return {node.inputs[0].value, w.empty() ? n_ : w.back()};
}

std::size_t Layer::element(std::int64_t i, std::int64_t r, std::int64_t c) const {
  if (out_first_) return static_cast<std::size_t>((i * m_ + r) * n_ + c);
  const std::int64_t channel = i * (n_ / taps_) + c / taps_;
  return static_cast<std::size_t>((channel * m_ + r) * taps_ + c % taps_);
}

BlockVector<float> Layer::by_columns(std::span<const float> stored, std::int64_t i) const {
  BlockVector<float> w(static_cast<std::size_t>(m_ * n_));
  for (std::int64_t c = 0; c < n_; ++c) {
    for (std::int64_t r = 0; r < m_; ++r) w[static_cast<std::size_t>(c * m_ + r)] = stored[element(i, r, c)];
  }
  return w;
}

std::size_t Layer::scale(const Grain& grain, std::int64_t i, std::int64_t r, std::int64_t c) const {
  return scale_place(grain, shape_, element(i, r, c));
}

Layer::Planes Layer::planes(const Grain& grain) const {
  Planes out;
  std::map<std::size_t, std::int32_t> seen;
  for (std::int64_t c = 0; c < n_; ++c) {
    const auto [found, fresh] = seen.try_emplace(scale(grain, 0, 0, c), static_cast<std::int32_t>(seen.size()));
    if (fresh) out.columns.push_back(c);
    out.of.push_back(found->second);
  }
  std::set<std::size_t> places;
  for (std::int64_t i = 0; i < matrices(); ++i) {
    for (std::int64_t r = 0; r < m_; ++r) {
      for (const std::int64_t c : out.columns) places.insert(scale(grain, i, r, c));
    }
  }
  out.own = static_cast<std::int64_t>(places.size()) == matrices() * m_ * static_cast<std::int64_t>(out.columns.size());
  out.together = std::is_sorted(out.of.begin(), out.of.end());
  for (std::size_t p = 0; p + 2 < out.columns.size() && out.together; ++p) {
    out.together = out.columns[p + 1] - out.columns[p] == out.columns[1] - out.columns[0];
  }
  return out;
}

}  // namespace qtool::solve

// SPDX-License-Identifier: Apache-2.0
#include "passes/biases.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "formats/ir/quant.h"
#include "passes/rewrite.h"

namespace qtool {
namespace {

/// Whether the node computes in integers, so that a float bias would break its kernel apart.
bool is_static(const Node& node) {
  const Quant &x = node.inputs[0].quant, &w = node.inputs[Product::weight_input].quant;
  return x && !x->dynamic && w && (w->grain.kind == Grain::Kind::tensor || w->grain.kind == Grain::Kind::axis);
}

Quant bias_decision() {
  QuantSpec spec;
  spec.format = &number::int16;  // is_bias: int32 codes, for which there is no number format
  spec.is_bias = true;
  return std::make_shared<const QuantSpec>(spec);
}

/// Whether the kernel of a product wants its bias as codes; TensorRT's takes it in float.
bool takes_codes(const Target& target, const Node& node) {
  const Ability* row = target.find(node, Role::product);
  return row == nullptr || row->bias_input >= 0;
}

}  // namespace

std::optional<BiasPlace> bias_place(const Graph& graph, const Links& links, const Product& product, std::string& why) {
  BiasPlace place{product, std::nullopt};
  if (product.takes_bias) {
    if (!bias_of(graph, product)) {
      why = "its bias is no constant per channel";
      return std::nullopt;
    }
  } else {
    place.added = added_bias(graph, links, product);
    if (!place.added) {
      why = "it has no bias: no Add of a constant follows the MatMul";
      return std::nullopt;
    }
  }
  return place;
}

std::vector<double> bias_at(const Graph& graph, const BiasPlace& place) {
  const Product& p = place.product;
  if (!place.added) return *bias_of(graph, p);
  const Node& add = graph[place.added->node];
  return *per_channel(graph[add.inputs[place.added->input].value].data, p.out_channels(), 8, -1);
}

bool write_bias(Graph& graph, const BiasPlace& place, std::span<const double> bias, const Target& target) {
  if (!std::all_of(bias.begin(), bias.end(), [](double b) { return std::isfinite(b); })) return false;
  if (!place.added) {
    const NodeId id = place.product.node;
    const bool had = input_of(graph[id], Product::bias_input) != ValueId::none;
    if (!set_bias(graph, place.product, bias)) return false;
    if (!had && is_static(graph[id]) && takes_codes(target, graph[id]))
      graph[id].inputs[Product::bias_input].quant = bias_decision();
    return true;
  }
  const ValueId old = graph[place.added->node].inputs[place.added->input].value;
  auto data = from_doubles(bias, {place.product.out_channels()}, graph[old].data.dtype());
  if (!data) return false;
  set_constant_input(graph, place.added->node, place.added->input, std::move(*data));
  return true;
}

std::set<std::string> moved_biases(const Journal& journal) {
  std::set<std::string> nodes;
  for (const Json& fact : journal.facts()) {
    const Json* kind = fact.find("kind");
    if (kind != nullptr && *kind == Json("fold") && fact.find("shift") != nullptr)
      nodes.insert(fact.find("node")->as_string());
  }
  return nodes;
}

}  // namespace qtool

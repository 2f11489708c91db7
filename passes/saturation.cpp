// SPDX-License-Identifier: Apache-2.0
#include "passes/saturation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "passes/rewrite.h"

namespace qtool {
namespace {

constexpr std::array<std::string_view, 21> pointwise{
    "Abs",       "Add", "Clip", "Div",  "Elu", "Erf", "Exp",  "Gelu",    "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min",  "Mish", "Mul", "Neg", "Relu", "Sigmoid", "Softplus",    "Tanh"};
constexpr std::size_t most_nodes = 16;  // Gelu spelled out has eight
constexpr int points = 4097;            // of the range: its step is finer than that of 8-bit codes
constexpr std::size_t least = 128;      // points that are worth cutting off: 3 % of the range

/// Everything that is a function of one element of `from` and of nothing else, in the order of computation.
struct Functions {
  std::vector<NodeId> nodes;
  std::set<ValueId> values;
};

bool one_number(const Graph& graph, ValueId v) {
  const Tensor* data = fixed_constant(graph, v);
  return data && data->count() == 1;
}

Functions functions_of(const Graph& graph, const Links& links, ValueId from) {
  Functions found{{}, {from}};
  const auto known = [&](const Use& use) {
    return use.value == ValueId::none || found.values.contains(use.value) || one_number(graph, use.value);
  };
  const auto joins = [&](NodeId n) {
    const Node& node = graph[n];
    const bool listed = std::find(pointwise.begin(), pointwise.end(), node.op) != pointwise.end();
    return listed && (node.domain.empty() || node.domain == "com.microsoft") &&
           std::all_of(node.inputs.begin(), node.inputs.end(), known);
  };
  for (bool more = true; more && found.nodes.size() < most_nodes;) {
    more = false;
    for (const ValueId v : std::set<ValueId>(found.values)) {
      for (const Links::Consumer& c : links.consumers(v)) {
        if (c.node == NodeId::none || c.input < 0 || !joins(c.node)) continue;
        if (!found.values.insert(graph[c.node].outputs[0]).second) continue;
        found.nodes.push_back(c.node);
        more = true;
      }
    }
  }
  return found;
}

/// Results that something else reads.
std::vector<ValueId> results(const Graph& graph, const Links& links, const Functions& functions) {
  std::vector<ValueId> list;
  const auto inside = [&](const Links::Consumer& c) {
    return c.node != NodeId::none && c.input >= 0 && functions.values.contains(graph[c.node].outputs[0]);
  };
  for (const ValueId v : functions.values) {
    const auto all = links.consumers(v);
    if (!std::all_of(all.begin(), all.end(), inside)) list.push_back(v);
  }
  return list;
}

Tensor evenly(Bounds range) {
  Tensor grid(DType::f32, {points});
  const std::span<float> x = grid.write<float>();
  for (int i = 0; i < points; ++i) {
    const double at = static_cast<double>(i) / (points - 1);
    x[static_cast<std::size_t>(i)] = static_cast<float>(range.low * (1 - at) + range.high * at);
  }
  return grid;
}

/// The values of all functions at the points of `grid`; empty where one cannot be computed.
std::map<ValueId, Tensor> evaluate(const Graph& graph, ValueId from, const Functions& functions, const Tensor& grid,
                                   Threads& threads) {
  std::map<ValueId, Tensor> at{{from, grid}};
  for (const NodeId n : functions.nodes) {
    std::vector<Tensor> inputs;
    for (const Use& use : graph[n].inputs) {
      if (use.value == ValueId::none) {
        inputs.emplace_back();
      } else {
        const auto computed = at.find(use.value);
        inputs.push_back(computed != at.end() ? computed->second : *fixed_constant(graph, use.value));
      }
    }
    const auto outputs = evaluate_node(graph, n, inputs, threads);
    if (!outputs || (*outputs)[0].dtype() != DType::f32 || (*outputs)[0].count() != points) return {};
    at[graph[n].outputs[0]] = (*outputs)[0];
  }
  return at;
}

/// How many of the first points have the value of the last of them, give or take `tolerance`.
template <class It>
std::size_t flat(It first, It last, float tolerance) {
  float low = *first, high = *first;
  std::size_t n = 0;
  for (It at = first; at != last; ++at, ++n) {
    low = std::min(low, *at);
    high = std::max(high, *at);
    if (!(high - *at <= tolerance && *at - low <= tolerance)) break;
  }
  return n - 1;
}

}  // namespace

Bounds told_apart(const Graph& graph, const Links& links, ValueId v, Bounds seen, const NumberFormat& format,
                  Threads& threads) {
  if (graph[v].type.dtype != DType::f32) return seen;
  const Functions functions = functions_of(graph, links, v);
  const std::vector<ValueId> read = results(graph, links, functions);
  if (functions.nodes.empty() || std::find(read.begin(), read.end(), v) != read.end()) return seen;
  const Tensor grid = evenly(seen);
  const std::map<ValueId, Tensor> at = evaluate(graph, v, functions, grid, threads);
  if (at.empty()) return seen;
  std::size_t below = points - 1, above = points - 1;
  for (const ValueId r : read) {
    const std::span<const float> f = at.at(r).read<float>();
    const auto [low, high] = std::minmax_element(f.begin(), f.end());
    const float range = std::max(*high, 0.0F) - std::min(*low, 0.0F);
    if (!std::isfinite(range)) return seen;
    const float tolerance = range / (format.highest - format.lowest) / 8;
    below = std::min(below, flat(f.begin(), f.end(), tolerance));
    above = std::min(above, flat(f.rbegin(), f.rend(), tolerance));
  }
  const std::span<const float> x = grid.read<float>();
  if (below + above >= points) return seen;  // constant: no range is better than another
  // A linear end is cut by the tolerance itself, which gains nothing.
  return {below < least ? seen.low : x[below], above < least ? seen.high : x[points - 1 - above]};
}

}  // namespace qtool

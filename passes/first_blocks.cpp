// SPDX-License-Identifier: Apache-2.0
#include "passes/first_blocks.h"

#include <algorithm>
#include <vector>

#include "calib/op.h"
#include "passes/rewrite.h"

namespace qtool {
namespace {

bool is_weighted(const Graph& graph, NodeId id) {
  const auto& inputs = graph[id].inputs;
  return std::any_of(inputs.begin(), inputs.end(), [&](const Use& use) {
    return graph.is_constant(use.value) && is_float(graph[use.value].data.dtype()) && graph[use.value].data.rank() >= 2;
  });
}

/// The graph with `waist` as its only output.
Graph cut_at(const Graph& graph, ValueId waist) {
  Graph cut = graph;
  Graph typed = graph;
  infer_types(typed);
  cut.outputs = {{waist, nullptr}};
  cut[waist].type = typed[waist].type;
  erase_dead(cut);
  return cut;
}

/// Whether no weighted node behind place `at` does without `waist`.
bool all_go_through(const Graph& graph, const std::vector<NodeId>& order, std::size_t at, ValueId waist) {
  std::vector<std::uint8_t> from(graph.value_slots());
  from[index(waist)] = 1;
  for (++at; at < order.size(); ++at) {
    const Node& node = graph[order[at]];
    bool depends = false;
    for (const auto* uses : {&node.inputs, &node.captured}) {
      for (const Use& use : *uses) depends = depends || (use.value != ValueId::none && from[index(use.value)] != 0);
    }
    if (!depends && is_weighted(graph, order[at])) return false;
    for (const ValueId v : node.outputs) {
      if (v != ValueId::none) from[index(v)] = depends ? 1 : 0;
    }
  }
  return true;
}

}  // namespace

std::int64_t weighted_nodes(const Graph& graph) {
  const auto nodes = graph.nodes();
  return std::count_if(nodes.begin(), nodes.end(), [&](NodeId id) { return is_weighted(graph, id); });
}

std::optional<Graph> first_blocks(const Graph& graph, std::int64_t least, double share) {
  const std::vector<NodeId> order = graph.order();
  std::vector<std::size_t> last(graph.value_slots());      // place of the last node that reads it
  std::vector<std::uint8_t> touched(graph.value_slots());  // computed with weights
  const std::int64_t all = weighted_nodes(graph);
  for (std::size_t at = 0; at < order.size(); ++at) {
    const Node& node = graph[order[at]];
    bool with_weights = is_weighted(graph, order[at]);
    for (const auto* uses : {&node.inputs, &node.captured}) {
      for (const Use& use : *uses) {
        if (use.value == ValueId::none) continue;
        last[index(use.value)] = at;
        with_weights = with_weights || touched[index(use.value)] != 0;
      }
    }
    for (const ValueId v : node.outputs) {
      if (v != ValueId::none) touched[index(v)] = with_weights ? 1 : 0;
    }
  }
  for (const Use& use : graph.outputs) last[index(use.value)] = order.size();
  // Of the values that weights have touched, those that somebody still wants.
  std::vector<ValueId> open;
  std::int64_t seen = 0;
  for (std::size_t at = 0; at + 1 < order.size(); ++at) {
    seen += is_weighted(graph, order[at]) ? 1 : 0;
    std::erase_if(open, [&](ValueId v) { return last[index(v)] <= at; });
    for (const ValueId v : graph[order[at]].outputs) {
      if (v != ValueId::none && touched[index(v)] != 0 && last[index(v)] > at) open.push_back(v);
    }
    if (seen < least) continue;
    if (static_cast<double>(seen) > share * static_cast<double>(all)) return std::nullopt;
    if (open.size() != 1 || last[index(open[0])] == order.size()) continue;
    if (all_go_through(graph, order, at, open[0])) return cut_at(graph, open[0]);
  }
  return std::nullopt;
}

}  // namespace qtool

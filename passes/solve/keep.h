// SPDX-License-Identifier: Apache-2.0
// What to keep of a model's values while it stands still: those from which the others can be made again, of the least
// size in all. A minimum cut of the graph between what is given and what is needed, every value an edge of as many
// bytes as it has (Ford, Fulkerson, 1956, Canadian Journal of Mathematics 8, 399).
#pragma once

#include <map>
#include <set>
#include <span>

#include "formats/ir/graph.h"

namespace qtool::solve {

/// Values from which `needed` follow through `nodes` (in the order of the graph) and constants: out of those that
/// `bytes` lists, which are `given` ones and outputs of `nodes`. Of several least sets the one nearest to `needed`.
std::set<ValueId> least_to_keep(const Graph&, std::span<const NodeId> nodes, const std::map<ValueId, double>& bytes,
                                const std::set<ValueId>& given, const std::set<ValueId>& needed);

/// Of `nodes`, in their order, those that lead from `kept` values to `needed` ones.
std::vector<NodeId> between(const Graph&, std::span<const NodeId> nodes, const std::set<ValueId>& kept,
                            const std::set<ValueId>& needed);

/// Calls f(value) for what a node reads, captured values too.
template <class F>
void for_each_use(const Node& node, F f) {
  for (const auto* uses : {&node.inputs, &node.captured}) {
    for (const Use& use : *uses) {
      if (use.value != ValueId::none) f(use.value);
    }
  }
}

}  // namespace qtool::solve

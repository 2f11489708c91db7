// SPDX-License-Identifier: Apache-2.0
// What rewriting passes share: looking at a neighbourhood, replacing a node, sweeping up what nobody uses, and the
// arithmetic of folding a diagonal into weights. Folding is done in double and rounded once to the stored type.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

bool is_op(const Node&, std::string_view op, std::string_view domain = {});
/// The input's value, or none when the node has no such input.
ValueId input_of(const Node&, std::size_t i);
/// "conv1", or the name of its first output where a node has no name: what journals and messages call it.
std::string label(const Graph&, NodeId);

/// The data of a value that no caller can override: a constant that is no graph input. Null otherwise.
const Tensor* fixed_constant(const Graph&, ValueId);
/// fixed_constant(), looking through Constant, Identity, Cast, Transpose, Reshape, Squeeze, Unsqueeze and Flatten
/// nodes over one. Empty tensor when there is none.
Tensor resolve_constant(const Graph&, const Links&, ValueId, Threads&);

/// The only consumer of `v`, when that is an input of a node: nobody else, graph outputs and bodies included, sees
/// the value.
std::optional<Links::Consumer> sole_consumer(const Graph&, const Links&, ValueId);
/// True when any use of the node, or any use of its outputs, carries a decision: rewriting it would lose that.
bool has_decisions(const Graph&, const Links&, NodeId);

/// A constant under a fresh name made from `stem`.
ValueId add_constant(Graph&, std::string_view stem, Tensor);
/// The constant behind input `i` of `node` gets `data`: in place when this use is the only one, else as a new
/// constant that this use alone sees. The use keeps its decision.
void set_constant_input(Graph&, NodeId node, std::size_t i, Tensor data);
/// Uses of `from` become uses of `to` and keep their decisions. Requires: both always hold the same numbers.
void redirect(Graph&, ValueId from, ValueId to);
/// Takes `node` out of a chain: what used its output 0 now uses `by`. When the output is a graph output, the producer
/// of `by` produces it under that name instead. False, and nothing changed, when that cannot be (both are graph
/// outputs, or a graph input or constant would have to be renamed).
bool bypass(Graph&, NodeId node, ValueId by);

/// Erases nodes whose outputs nobody uses (nodes of domains that qtool does not know stay: they may have effects),
/// then constants and values that nobody uses. Graph inputs stay. Returns the number of nodes erased.
std::int64_t erase_dead(Graph&);
/// Gives `node` new bodies, attribute by attribute: f returns the new body or null to keep it. Captured values that
/// no body uses any more are dropped from the node.
void replace_bodies(Graph&, NodeId node,
                    const std::function<std::shared_ptr<const Graph>(const std::shared_ptr<const Graph>&)>& f);

/// Replaces an If by the branch that it takes; values of the branch get fresh names where theirs are taken: those, with
/// the name before it, are returned. Requires: the node has that branch.
std::vector<std::pair<std::string, std::string>> take_branch(Graph&, NodeId node, bool condition);

/// A node's outputs computed from the given inputs by the operators of calib; absent where an input is absent. Empty
/// optional when calib has no such operator or refuses, or cannot tell the shape of what is absent (`why`, if asked
/// for, says so).
std::optional<std::vector<Tensor>> evaluate_node(const Graph&, NodeId, std::span<const Tensor> inputs, Threads&,
                                                 std::string* why = nullptr);

/// Numbers in double. Any numeric type.
std::vector<double> to_doubles(const Tensor&);
/// Rounded to nearest once. Empty optional when a finite number does not fit `dtype` (a float type).
std::optional<Tensor> from_doubles(std::span<const double>, const Shape&, DType dtype);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Node selectors: operator, name pattern, region, size. All conditions of a selector must hold; the words of one list
// are alternatives.
//
//   op, not_op       operators: Conv, com.microsoft.MatMulNBits, Reduce*
//   name, not_name   node names (label_of)
//   region           after:NAME, before:NAME: what depends on the node NAME, what it depends on. first, last: of the
//   nodes
//                    that all other conditions leave, or of those with a weight when there is no other condition
//   min_size, max_size   elements of the largest constant input
#pragma once

#include <string_view>
#include <vector>

#include "formats/ir/graph.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// `*` any characters, `?` one, `[a-z]` a class, `[!a-z]` all but a class.
bool glob_match(std::string_view pattern, std::string_view text);

/// Live nodes that match, in graph order. Error(Code::usage) with place and the nearest operator or node name when
/// nothing matches.
std::vector<NodeId> select(const Graph&, const Where&);

}  // namespace qtool

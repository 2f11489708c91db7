// SPDX-License-Identifier: Apache-2.0
// Node selectors: operator, name pattern, region, size.
#pragma once

#include <vector>

#include "formats/ir/graph.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// `*` any characters, `?` one, `[a-z]` a class.
bool glob_match(std::string_view pattern, std::string_view text);

/// Live nodes that match, in graph order. Error(Code::usage) with place and the nearest operator or node name when
/// nothing matches.
std::vector<NodeId> select(const Graph&, const Where&);

}  // namespace qtool

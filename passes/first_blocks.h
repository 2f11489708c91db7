// SPDX-License-Identifier: Apache-2.0
// The first blocks of a model as a model of their own, to try on them what will be done to all of it.
#pragma once

#include <cstdint>
#include <optional>

#include "formats/ir/graph.h"

namespace qtool {

/// Nodes with a weight: a constant of two dimensions or more, floats. Bodies do not count.
std::int64_t weighted_nodes(const Graph&);

/// The graph up to a waist: a value through which everything goes that weights have touched, behind at least `least` of
/// the weighted nodes and at most `share` of them. It becomes the only output; inputs stay as they are, used or not.
/// Nothing when the model has no such value.
std::optional<Graph> first_blocks(const Graph&, std::int64_t least = 4, double share = 0.5);

}  // namespace qtool

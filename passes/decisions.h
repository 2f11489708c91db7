// SPDX-License-Identifier: Apache-2.0
// What a step decided, found by looking at the graph before and after it: the uses whose decision it made or changed,
// the constants that it made or changed, and the rules of the recipe that its nodes follow. From these facts
// ("decided") the lock of a model is written.
#pragma once

#include <span>

#include "formats/base/json.h"
#include "formats/ir/graph.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// {"uses": [[node, input]], "constants": [{"name", "was", "is"}], "rules": [[node, rule]]}. Inputs as Links::Consumer
/// counts them (no node: a graph output); hashes are SHA-256 of elements, `was` null for a new constant; rules count
/// from
/// 1. Integer constants are left out: no codes come from them. `rules`: those that the step follows.
Json decided_between(const Graph& before, const Graph& after, std::span<const Rule> rules);

}  // namespace qtool

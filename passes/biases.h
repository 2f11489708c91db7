// SPDX-License-Identifier: Apache-2.0
// Biases of products that passes move: where they are kept, and how new ones get there.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "formats/base/journal.h"
#include "formats/ir/graph.h"
#include "formats/target.h"
#include "passes/product.h"

namespace qtool {

struct BiasPlace {
  Product product;
  std::optional<AddedBias> added;  // MatMul: the Add that holds its bias
};

/// Where the product keeps its bias, or could; empty: nowhere, and `why`.
std::optional<BiasPlace> bias_place(const Graph&, const Links&, const Product&, std::string& why);

/// One number per output channel, zeros where there is none yet.
std::vector<double> bias_at(const Graph&, const BiasPlace&);

/// Sets it, as a new input where the operator takes one and has none; that of a product of codes is decided to be codes
/// as well, where the kernels of the target take it so. False, and nothing changed, where a number is not finite or
/// does not fit its type.
bool write_bias(Graph&, const BiasPlace&, std::span<const double> bias, const Target&);

/// Nodes whose bias an earlier step moved to make up for rounding: what they put out in float is not what the model
/// does, so that nothing can be measured against it.
std::set<std::string> moved_biases(const Journal&);

inline constexpr const char* bias_was_moved = "an earlier step gave its mean back already";

}  // namespace qtool

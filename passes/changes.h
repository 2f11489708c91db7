// SPDX-License-Identifier: Apache-2.0
// What differs between two graphs of which one was made from the other: the pipeline holds passes to their effect
// with it and records what they did. Ids are the yardstick, since they stay valid from step to step; tensors that
// share storage are equal without looking at their bytes, so that the comparison costs next to nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/ir/graph.h"

namespace qtool {

struct Changes {
  std::int64_t nodes_added = 0, nodes_removed = 0, nodes_changed = 0;
  std::int64_t constants_added = 0, constants_removed = 0, constants_changed = 0;
  std::int64_t values_changed = 0;  // renamed, or of another declared type
  std::int64_t quants_changed = 0;  // uses with another decision, in the nodes that both graphs have
  bool interface_changed = false;   // graph inputs or outputs: which values, in which order
  /// The first difference of the reference reading in words ("node \"conv1\" (Conv) was removed"); empty: none.
  std::string first;
  /// The first use whose decision differs, in words; empty: none.
  std::string first_quant;

  /// True when the reference reading may differ.
  bool reference() const { return !first.empty(); }
  Json json() const;
};

Changes changes_between(const Graph& before, const Graph& after);

/// Values that nodes made before and that are constants now, where this is all that changed (their elements may be
/// anything); none where more did.
std::optional<std::vector<ValueId>> folded_between(const Graph& before, const Graph& after);

/// Whether two uses are represented alike, number by number.
bool same_decision(const Quant&, const Quant&);

/// Whether two attributes say the same, bodies included.
bool same_attribute(const Attr&, const Attr&);

/// Empty when graph inputs (those without default) and outputs are the same values with the same names and types in
/// the same order; else what differs. An input with a default may go: it was a constant all along.
std::string interface_difference(const Graph& before, const Graph& after);

}  // namespace qtool

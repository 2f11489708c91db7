// SPDX-License-Identifier: Apache-2.0
// Two recipes held against each other: step by step and knob by knob, what is left out standing for its default.
#pragma once

#include <string>
#include <vector>

#include "cli/job_parts.h"
#include "formats/base/json.h"

namespace qtool {

/// "step round_nearest", "clip", "minmax". Sections: target, "step ID", "rule N", data, eval, emit, gate. A step or
/// rule opens with the key "pass" or "rule" and its place among the others.
struct RecipeEntry {
  std::string section, key;
  Json value;
};

/// All that a recipe says, defaults included, in the order of its steps.
std::vector<RecipeEntry> entries_of(const JobSetup&);

/// {"schema", "equal", "differences": [{"section", "key", "a", "b"}]}; null: the recipe has no such step, rule or knob.
Json recipe_difference(const JobSetup& a, const JobSetup& b);
/// The same as a table; empty when equal.
std::string recipe_difference_text(const Json& difference);

}  // namespace qtool

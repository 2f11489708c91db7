// SPDX-License-Identifier: Apache-2.0
// The gate: limits of the recipe held against what was measured on held-out data; and the sanity floor that every
// model must pass, gate or not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/compare.h"
#include "formats/base/json.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// One limit and what was measured. `name`: as in the recipe; `output`: empty for limits of the whole model.
struct GateLimit {
  std::string name, output;
  double limit = 0, measured = 0;
  bool met = false;
  Json json() const;
};

/// Every limit of the gate, met or not. Error(Code::calibration) when a limit cannot be measured on these data
/// (no labels, no class scores).
std::vector<GateLimit> judge(const Gate&, const Comparison*, double size_ratio);
/// Error(Code::gate) that names every limit that was missed.
void hold_to(const Gate&, const std::vector<GateLimit>&);

/// Error(Code::verification) when an output has NaN or infinities that the reference has not, or is one constant
/// where the reference is none.
void check_sanity(const Comparison&);

}  // namespace qtool

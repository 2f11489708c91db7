// SPDX-License-Identifier: Apache-2.0
// The gate: limits of the recipe held against what was measured on held-out data; and the sanity floor that every
// model must pass, gate or not.
//
// What is measured on some samples is known up to chance (calib/confidence.h). A limit is met when the figure with all
// the loss that chance may hide is still within it, at 95 % confidence; it is missed when the figure is beyond it
// whatever chance did; else it is undecided, which counts as missed unless the recipe says `undecided: pass`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/compare.h"
#include "calib/confidence.h"
#include "formats/base/json.h"
#include "recipes/reader/recipe.h"

namespace qtool {

enum class Verdict : std::uint8_t { met, missed, undecided };

/// One limit and what was measured. `name`: as in the recipe; `output`: empty for limits of the whole model.
struct GateLimit {
  std::string name, output;
  double limit = 0;
  Bounded measured;  // exact figures have equal bounds
  Verdict verdict = Verdict::missed;
  double more_samples = 0;  // undecided: about so many more would decide, were the figure to stay; infinite: none would
  Json json() const;
};

/// What is not measured on samples.
struct ModelFigures {
  double size_ratio = 0;
  double integer_share = 0;
};

/// Every limit of the gate. Error(Code::calibration) when a limit cannot be measured on these data (no labels, no class
/// scores).
std::vector<GateLimit> judge(const Gate&, const Comparison*, const ModelFigures&);
/// Those of one output that it has figures for.
std::vector<GateLimit> judge(const Gate&, const OutputReport&);
/// Error(Code::gate) that names every limit that was missed or counts as missed. `what`: how the message begins.
void hold_to(const Gate&, const std::vector<GateLimit>&, const std::string& what = "the model missed the gate");

/// Error(Code::verification) when an output has NaN or infinities that the reference has not, or is one constant
/// where the reference is none.
void check_sanity(const Comparison&);

}  // namespace qtool

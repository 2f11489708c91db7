// SPDX-License-Identifier: Apache-2.0
// Pipeline: runs the steps of a recipe and keeps the promises: structure verified after each step, the declared
// effect checked on a probe batch, changes and times recorded in the journal, a broken promise named after the
// pass that broke it.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <vector>

#include "calib/observe.h"
#include "formats/base/hash.h"
#include "formats/base/journal.h"
#include "formats/ir/graph.h"
#include "formats/target.h"
#include "passes/pass.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// A step ready to run: the pass with its knobs bound.
struct BoundStep {
  const PassDef* def = nullptr;
  std::unique_ptr<Pass> pass;
  Step step;
  bool needs_data() const { return def->needs_data && !pass->does_without_data(); }
};

/// Finds passes and binds knobs. Error(Code::usage) with place for unknown passes and knobs. Nothing is run.
std::vector<BoundStep> bind_steps(const Recipe&);

struct PipelineOptions {
  std::uint64_t seed = 0;
  std::stop_token stop;
  Keeping keeping{};
  Digest job{};  // of everything that the steps depend on beside themselves, for checkpoints
};

/// Runs all steps on `graph`, or those that an interrupted run left to do (passes/checkpoint.h). Errors carry the pass
/// name; a broken promise is Error(Code::internal).
void run_steps(Graph& graph, std::vector<BoundStep>& steps, const Recipe& recipe, const Target& target,
               Calibration& calibration, Journal& journal, Threads& threads, const PipelineOptions& options);

/// Plans all steps on `graph`, whose weights may be absent: afterwards it holds what run_steps() would decide. Nothing
/// is run on data, which only tell shapes here.
void plan_steps(Graph& graph, std::vector<BoundStep>& steps, const Recipe& recipe, const Target& target,
                Calibration& calibration, Journal& journal, Threads& threads, const PipelineOptions& options,
                Forecast& forecast);

}  // namespace qtool

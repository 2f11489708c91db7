// SPDX-License-Identifier: Apache-2.0
// Both folding passes, run by the pipeline as a recipe would.
#pragma once

#include "passes/pipeline.h"

namespace qtool::test {

inline void fold(Graph& graph, Journal& journal, Threads& threads) {
  Recipe recipe;
  for (const char* pass : {"fold_constants", "fold_batch_norm"}) {
    Step step;
    step.pass = step.id = pass;
    recipe.steps.push_back(step);
  }
  auto steps = bind_steps(recipe);
  const Target target;
  Calibration calibration(nullptr, threads, journal);
  run_steps(graph, steps, recipe, target, calibration, journal, threads, {});
}

}  // namespace qtool::test

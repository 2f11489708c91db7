// SPDX-License-Identifier: Apache-2.0
// The parts of a job that planning shares with it: what the recipe decides before the model is opened, and what is done
// to the graph before the first step and after the last one.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "calib/data.h"
#include "cli/job.h"
#include "cli/manifest.h"
#include "cli/ratchet.h"
#include "passes/pipeline.h"

namespace qtool {

/// All that the request and the recipe decide before the model is opened; a mistake here costs no time.
struct JobSetup {
  Recipe recipe;
  const BackendDef* backend = nullptr;
  std::unique_ptr<Emitter> emitter;
  std::vector<BoundStep> steps;
  DataOptions calib, eval;
  std::optional<Ratchet> ratchet;
  std::filesystem::path output;
};

/// The part that follows from the recipe alone. Error(Code::usage) with place.
JobSetup set_up_job(const std::string& recipe, const std::vector<std::string>& set, const std::string& target);
/// With the request's data and output. Whether data are needed is not asked: see require_data().
JobSetup set_up_job(const JobRequest&);
/// Error(Code::usage or Code::calibration) when a step or the gate needs data that nobody named; reads the ratchet.
void require_data(const JobRequest&, JobSetup&);

/// Leaves out the rules and steps that select nothing in a part of the model, where that is all there is.
void keep_what_selects(JobSetup&, const Graph& part);

/// The graph at an opset and IR version that the target loads.
void fit_versions(Graph&, const Target&);
/// The decided graph as the emitter writes it. Types that were not declared are known to it and not written.
Graph lower(const Graph& decided, Emitter&, const Target&, Journal&);
/// What made the file, in the file; the manifest says more.
void sign(Graph&, const Provenance&);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// The whole job as a function: recipe in, artefact out, progress by callback. Prints nothing; the quantize command
// and libqtool are thin skins over it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "calib/compare.h"
#include "formats/base/error.h"
#include "formats/base/journal.h"
#include "formats/base/json.h"
#include "formats/latency.h"
#include "recipes/reader/recipe.h"

namespace qtool {

struct BackendDef;

struct JobRequest {
  std::filesystem::path model;
  std::string recipe;             // file or shipped name
  std::filesystem::path output;   // empty: <model stem>.<recipe>.onnx in the current folder
  std::string calib, eval;        // override data.path and eval.path
  std::string target;             // override the recipe's
  std::vector<std::string> set;   // id.key=value
  std::filesystem::path ratchet;  // report of the last model, which this one must not be worse than; empty: none
  std::filesystem::path locked;   // lock whose decisions the run must come to; empty: none
  std::filesystem::path cache;    // folder of results that jobs share; empty: none
  bool restart = false;           // drop what an interrupted run left
  int threads = 0;
  std::uint64_t seed = 0;
  std::uint64_t max_ram = 0;  // bytes of memory that may be used; 0: what the container allows
  bool no_clobber = false;
  bool rehearsal = false;  // the model is a part of what the gate's limits are for: they are not judged
  std::stop_token stop;
};

struct JobResult {
  std::filesystem::path output;
  std::uint64_t input_bytes = 0, output_bytes = 0;
  std::optional<Comparison> comparison;  // against the input file's own graph
  Latency latency;                       // the target's estimate; without nodes: none
  bool compared_on_eval = false;         // else: on the calibration data (sanity floor only)
  std::vector<std::string> remarks;      // "no gate: only the sanity floor was checked", ...
  Json report;                           // everything above and the journal, for --json
};

/// The gate was missed: what was measured, for reports. Nothing was published.
class GateMissed : public Error {
 public:
  GateMissed(const Error& e, JobResult measured) : Error(e), result(std::move(measured)) {}
  JobResult result;
};

/// Throws Error with the documented Code; on any error nothing is published and nothing old is lost. When it is
/// stopped, the same request goes on where this one was (cli/resume.h).
JobResult run_job(const JobRequest&, Journal&);

/// One thing that a job asks its cache for.
struct CacheAnswer {
  std::string kind;  // of entry
  Json about;
  bool found = false;
};
/// All that the request would ask the cache for, and writes nothing. Statistics that are missing are computed, since
/// what later steps ask for depends on them.
std::vector<CacheAnswer> ask_cache(const JobRequest& request, Journal&);

/// Error(Code::usage) with the nearest name.
const BackendDef& backend_named(const std::string& name);

/// All checks of a recipe that need neither model nor data: passes, knobs, target, emitter, data sections, gate.
/// Error(Code::usage) with place.
Recipe check_recipe(const std::string& name_or_path, const std::vector<std::string>& set);

}  // namespace qtool

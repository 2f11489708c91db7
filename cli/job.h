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
#include "formats/base/journal.h"
#include "formats/base/json.h"

namespace qtool {

struct JobRequest {
  std::filesystem::path model;
  std::string recipe;            // file or shipped name
  std::filesystem::path output;  // empty: <model stem>.<recipe>.onnx beside the current folder
  std::string calib, eval;       // override data.path and eval.path
  std::string target;            // override the recipe's
  std::vector<std::string> set;  // id.key=value
  int threads = 0;
  std::uint64_t seed = 0;
  bool no_clobber = false;
  std::stop_token stop;
};

struct JobResult {
  std::filesystem::path output;
  std::uint64_t input_bytes = 0, output_bytes = 0;
  std::optional<Comparison> comparison;  // against the input file's own graph
  bool compared_on_eval = false;         // else: on the calibration data (sanity floor only)
  std::vector<std::string> remarks;      // "no gate: only the sanity floor was checked", ...
  Json report;                           // everything above and the journal, for --json
};

/// Throws Error with the documented Code; on any error nothing is published and nothing old is lost.
JobResult run_job(const JobRequest&, Journal&);

}  // namespace qtool

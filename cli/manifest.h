// SPDX-License-Identifier: Apache-2.0
// The manifest beside a published model: what it was made of and how, what was measured, and what was decided. The same
// job gives the same bytes: no time, host, user or path is in it. What may change bytes (compiler, instruction set,
// kernels of OpenBLAS and who chose them) is named.
#pragma once

#include <filesystem>
#include <string>

#include "calib/data.h"
#include "cli/job.h"
#include "formats/base/json.h"
#include "formats/ir/graph.h"
#include "formats/lock.h"
#include "formats/target.h"

namespace qtool {

/// What a manifest says about a job beside its report.
struct Provenance {
  std::string model_sha256, recipe_sha256;
  const Dataset *calibration = nullptr, *evaluation = nullptr;  // null: none
  std::string calibration_sha256, evaluation_sha256;
  std::string lock_sha256 = std::string(64, '0');  // of the lock's bytes, once it is written
};

/// SHA-256 (hex) of a file.
std::string file_digest(const std::filesystem::path&, const std::stop_token& = {});
/// SHA-256 (hex) of the model file, and of the weights outside it where there are any.
std::string model_digest(const std::filesystem::path& file, const Graph&, const std::stop_token& = {});

/// SHA-256 (hex) of the recipe as it is run: its text, changed knobs and target. Where the data lie is no part of it,
/// since their contents have hashes of their own.
std::string recipe_digest(const JobRequest&, const Recipe&);

/// What differs from machine to machine: compiler, instruction set, kernels.
Json machine_json();

/// `staged`: the written model where it lies until it is published.
Json manifest_of(const JobRequest&, const Recipe&, const Target&, const JobResult&, const Provenance&, const Lock&,
                 const std::filesystem::path& staged);

}  // namespace qtool

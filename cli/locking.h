// SPDX-License-Identifier: Apache-2.0
// The lock of a run: written from the graph with its decisions and from the facts of the journal; and the comparison of
// two, for `quantize --locked`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backends/verify/verify.h"
#include "cli/job_parts.h"
#include "cli/manifest.h"
#include "formats/base/json.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "formats/lock.h"

namespace qtool {

/// Names of values and their error in dB.
using LayerErrors = std::vector<std::pair<std::string, double>>;

/// `graph`: as the passes left it. Facts as the journal has them. `layers` stand in the lock where a step measured on
/// the calibration data, so that the lock depends on nothing that the model does not depend on. `inputs`: of those
/// data, see products_with_codes(); empty without.
Lock lock_of(const Graph& graph, const std::vector<Json>& facts, const JobSetup&, std::uint64_t seed, const Provenance&,
             const LayerErrors& layers, const LayerInputs& inputs, Threads&);

/// Names of the nodes whose weight is to be held as codes.
std::set<std::string, std::less<>> products_with_codes(const Graph& decided);

/// Writes the file; SHA-256 of its bytes. The disk is told to begin, nobody waits for it.
std::string write_lock(const Lock&, const std::filesystem::path& file);

/// What differs, one sentence each ("the calibration data are others", "conv1 input 1 (conv1.weight): scale, codes"),
/// inputs and steps before folds, folds before tensors. Measured errors and the version do not count.
std::vector<std::string> lock_differences(const Lock& locked, const Lock& now);

/// The lock to publish: `locked` itself when this very version wrote it, so that the model's bytes are those of then
/// even where errors were measured by other kernels. Error(Code::input) with the first differences when there are any.
/// `file`: the name of `locked`.
Lock held_to(const Lock& locked, Lock now, const std::filesystem::path& file);

}  // namespace qtool

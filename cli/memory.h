// SPDX-License-Identifier: Apache-2.0
// The memory ceiling of a job: what the user or the container says, and whether the job can keep to it.
#pragma once

#include <filesystem>
#include <optional>

#include "cli/job.h"
#include "formats/base/journal.h"
#include "formats/base/memory.h"
#include "formats/ir/graph.h"

namespace qtool {

/// The ceiling that holds while it lives: the request's, else nine tenths of what the container allows, else none.
/// Scratch files go to `folder`.
std::optional<MemoryCeiling> ceiling_of(const JobRequest&, const std::filesystem::path& folder, Journal&);

/// Memory that a job on this model needs at least, in bytes: what cannot lie in files.
std::uint64_t least_memory(const Graph& model, int threads);
/// Error(Code::no_fit) naming the smallest ceiling when this one is below it.
void check_ceiling(const MemoryCeiling&, const Graph& model, int threads);

}  // namespace qtool

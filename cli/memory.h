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

/// The request's, else nine tenths of what the container allows, else none.
std::optional<MemoryLimit> ceiling_asked(const JobRequest&);
/// That ceiling, holding while it lives. Scratch files go to `folder`.
std::optional<MemoryCeiling> ceiling_of(const JobRequest&, const std::filesystem::path& folder, Journal&);

/// The smallest ceiling that a job on this model can keep, in bytes, a multiple of a mebibyte. Weights may be absent.
std::uint64_t least_ceiling(const Graph& model, int threads);
/// Error(Code::no_fit) naming it when `bytes` is less.
void check_ceiling(std::uint64_t bytes, const Graph& model, int threads);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Extents of a single run, for estimates that need numbers where a model says "batch".
#pragma once

#include <optional>

#include "calib/data.h"
#include "formats/ir/graph.h"

namespace qtool {

/// A copy with the types of one run on one sample: extents that the model leaves open are 1 for the first axis of an
/// input and those of the data for others. Nothing when such an extent is open and there are no data (null) to tell it.
std::optional<Graph> bound_to_one_sample(const Graph& graph, const Dataset* data);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// What a job tells about speed: the target's estimate for the graph as decided, and the layers that it runs slower
// in few bits than in float.
#pragma once

#include "calib/data.h"
#include "formats/base/journal.h"
#include "formats/latency.h"
#include "formats/target.h"

namespace qtool {

/// The estimate for one sample: extents that the model leaves open are those of the data, 1 for the first one of an
/// input. Nothing where neither tells them. Journals a "slower" fact for every layer that takes longer than in float,
/// and a warning when the whole does.
Latency tell_latency(const Graph& original, const Graph& decided, const Dataset* data, const Target& target,
                     Journal& journal);

}  // namespace qtool

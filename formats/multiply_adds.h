// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "formats/latency.h"

namespace qtool {

/// Latency::multiply_adds by Precision. Extents as for estimate_latency().
std::array<double, 4> multiply_adds_by_precision(const Graph& graph, const Target& target);

}  // namespace qtool

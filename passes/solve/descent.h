// SPDX-License-Identifier: Apache-2.0
// Coordinate descent on codes (layerwise-optimizers.md section 4, the QuantEase family): every weight in turn becomes
// the nearest value to what would be best for it alone, where that lowers e H e^T.
#pragma once

#include <cstdint>
#include <span>

#include "formats/base/threads.h"
#include "passes/solve/columns.h"
#include "passes/solve/grid.h"

namespace qtool::solve {

/// `sweeps` over all columns by falling diagonal of H; `h` [n, n], symmetric. Codes and values of `solved` change, its
/// loss does not. The error of no row rises.
void descend(Threads&, std::span<const float> w, const Grid&, std::span<const double> h, std::int64_t sweeps,
             Solved& solved);

}  // namespace qtool::solve

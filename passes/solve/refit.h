// SPDX-License-Identifier: Apache-2.0
// Scales and zero points that are best for codes as they are: least squares per row over all its planes at once
// (layerwise-optimizers.md section 2).
#pragma once

#include <cstdint>

#include "passes/solve/problem.h"

namespace qtool::solve {

/// New scales and zero points (integers, where the decision is not symmetric) for the rows of `found` whose e H e^T
/// falls by them, and the values that follow; codes stay. Returns the number of such rows, whose loss is then e H e^T.
/// Does
/// nothing where scales are not free or the format is no integer one. Requires: a Hessian. Working memory: at most 64
/// MiB beside arrays of the matrix' size.
std::int64_t refit(const Problem& problem, Found& found);

}  // namespace qtool::solve

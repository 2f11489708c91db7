// SPDX-License-Identifier: Apache-2.0
// The error that the codes of a weight make in what their product puts out, on rows of what enters it.
#pragma once

#include <optional>
#include <span>

#include "backends/verify/coded.h"
#include "backends/verify/replay.h"
#include "formats/base/threads.h"

namespace qtool::verify {

/// Sums of squares: |X W|^2 and |X (W - W^)|^2.
struct OutputError {
  double signal = 0, noise = 0;
};

/// `product`: of the model; `weight`: W in its layout, and `coded` W^, transposed or not. `rows`: X of the model; what
/// `folds` made of it is done to it here. Every s-th output channel counts, s the least that leaves at most 2^18
/// weights. Empty: the rows are no inputs of such a product, or a fold cannot be replayed on them.
std::optional<OutputError> output_error(const NodeView& product, const Numbers& weight, const Coded& coded,
                                        bool transposed, const InputRows& rows, std::span<const Fold> folds, Threads&);

}  // namespace qtool::verify

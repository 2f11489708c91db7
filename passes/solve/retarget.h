// SPDX-License-Identifier: Apache-2.0
// retarget: the weights whose outputs on the quantized model's inputs come closest to the float outputs, before
// anything is rounded (gptq.md 4.4, the exact reduction): W* = W + share W C Hd^-1. Quantizing W* for Hd then minimizes
// the distance to the float model's outputs, not to those of the float weights on inputs that are already off.
#pragma once

#include <cstdint>
#include <span>

#include "formats/base/block_vector.h"
#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool::solve {

/// `w` [m, n] by columns: w[c * m + r]. `h`, `c`: float64 [n, n]. `added`: to the diagonal of h. `share` from 0 to 1.
/// Empty where h has no factor.
BlockVector<float> retarget(Threads&, std::span<const float> w, const Tensor& h, const Tensor& c, double added,
                            double share);

}  // namespace qtool::solve

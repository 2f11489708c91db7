// SPDX-License-Identifier: Apache-2.0
// Masks that the attention operators of com.microsoft share.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/ops/attention.h"

namespace qtool::op {

/// What hides keys and what is added to scores. Tensors may be empty.
struct MicrosoftMasks {
  /// Lengths [batch] (or [3 * batch + 2], which begins with them), ends and starts [2 * batch], a flag for each key
  /// [batch, keys], or for each query and key [batch, queries, keys].
  Tensor padding;
  Tensor bias;          // broadcasts to [batch, heads, queries, keys]
  float filter = 0;     // added to the scores of what `padding` hides
  bool causal = false;  // query s sees keys up to past + s
  std::int64_t past = 0;
};

/// Sets visible and bias. Error(Code::input) where shapes do not fit.
void set_masks(AttentionProblem<float>&, const MicrosoftMasks&);

}  // namespace qtool::op

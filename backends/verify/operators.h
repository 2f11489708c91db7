// SPDX-License-Identifier: Apache-2.0
// Operators of ONNX and ONNX Runtime that compute on codes, and where they take codes, scales and zero points.
#pragma once

#include <optional>
#include <vector>

#include "backends/verify/onnx_file.h"

namespace qtool::verify {

struct Slot {
  std::size_t codes = 0, scale = 0, zero = 0;
};

struct Slots {
  std::vector<Slot> inputs;
  std::optional<Slot> output;         // its `codes` means nothing: they are output 0
  std::optional<std::size_t> weight;  // the slot whose scales may be one per output channel
  std::optional<std::size_t> bias;    // input: int32 on the scale of input and weight, else float
  bool bias_is_codes = true;
  bool needs_zero = false;  // zero points are no optional inputs
};

/// Empty: the operator computes on no codes, or takes their parameters in no fixed places.
std::optional<Slots> slots_of(const NodeView&);

}  // namespace qtool::verify

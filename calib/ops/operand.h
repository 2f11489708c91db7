// SPDX-License-Identifier: Apache-2.0
// Checks of operands, in a sentence; for operators that compute on float arrays of a fixed layout.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "calib/ops/support.h"

namespace qtool {

/// Error(Code::input) with a sentence about the operands unless `condition` holds.
inline void require(bool condition, const std::string& sentence) {
  if (!condition) op::refuse(sentence);
}

/// f16 and bf16 as float32; float32 and float64 as they are. Others are refused, named by `what`.
inline Tensor compute_float(const Tensor& t, std::string_view what) {
  require(is_float(t.dtype()),
          std::string(what) + " has type " + std::string(name_of(t.dtype())) + " where a float is needed");
  return op::widened(t);
}

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace qtool

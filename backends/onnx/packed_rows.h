// SPDX-License-Identifier: Apache-2.0
// Codes of a weight as rows of bits, which is how operators on blocks store them.
#pragma once

#include "formats/ir/tensor.h"

namespace qtool::onnx_form {

/// Codes of a weight as a decision holds them, one element each.
struct HeldCodes {
  Tensor codes;                          // [n, k], or [k, n] where turned
  std::int64_t n = 0, k = 0, block = 0;  // rows, codes of a row, codes of a block
  int bits = 0;                          // 2, 4 or 8
  bool turned = false;
  std::uint8_t up = 0;  // added to each
};

/// n rows of `row` bytes as a uint8 tensor of this shape: k codes from the first bit on, behind them zeros. They are
/// made when they are read; the rows of a weight that is turned lie across it and are made all at once.
Tensor packed_rows(const HeldCodes&, std::int64_t row, Shape);

}  // namespace qtool::onnx_form

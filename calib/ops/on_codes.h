// SPDX-License-Identifier: Apache-2.0
// Conv, MatMul and Gemm of the quantized reading, on codes: exact int32 sums, scaled to floats, as the kernels of
// runtimes compute them.
#pragma once

#include <optional>

#include "calib/op.h"

namespace qtool {

/// How a product runs on codes.
struct ProductOnCodes {
  /// Takes (A, its scale, its zero point, B, its scale, its zero point, bias) with the attributes of the product: codes
  /// of 8 bits, zero points of their type (left out: 0), a bias in int32 that is added to the sums or one in float that
  /// is added behind.
  const OpDef* def = nullptr;
  bool integer_bias = false;
};

/// None where the decisions on the operands are not codes of up to 8 bits with one scale for A and one, or one per
/// output channel, for B; and where the product is not one of float32.
std::optional<ProductOnCodes> product_on_codes(const Graph&, const Node&);

/// A product with weights in groups, decided to round its activations to int8 in the same groups, as the MatMulNBits
/// that runtimes make of it; none where it is something else. `constants`: what the node reads behind its first input.
struct ProductInBlocks {
  Node node;
  std::vector<Tensor> constants;
};
std::optional<ProductInBlocks> product_in_blocks(const Graph&, const Node&);

}  // namespace qtool

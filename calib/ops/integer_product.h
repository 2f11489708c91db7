// SPDX-License-Identifier: Apache-2.0
// Exact products of integer codes on the float kernels, the plain version of code_product.h: codes less their zero
// points are small integers, and sums of their products are exact in float32 up to 2^24 and in float64 far beyond every
// 32-bit accumulator. Which of the two is needed follows from the data; the result is the same number either way.
#pragma once

#include <cstdint>
#include <string_view>

#include "calib/ops/conv.h"
#include "calib/ops/matmul.h"
#include "calib/ops/quantized.h"
#include "formats/base/integer_product.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// code - zero_point as float32. `zero_point` (may be empty): one value, or one per index of `axis`.
Tensor centred(const Tensor& codes, const Tensor& zero_point, std::int64_t axis, std::string_view what);

/// Sums of products of centred codes, exact: a float32 or float64 tensor of integers.
Tensor exact_product(Threads& threads, const MatMulPlan& plan, const Tensor& a, const Tensor& b);
/// The same for a convolution.
Tensor exact_convolution(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& kernel);

/// Exact sums as int32; wraps around as 32-bit accumulators do.
Tensor sums_to_i32(const Tensor& sums);

/// saturate(round_half_even(x) + zero_point) for values already divided by the scale. `dtype`: i8 or u8.
Tensor saturated(Threads& threads, const Tensor& x, float zero_point, DType dtype);

}  // namespace qtool

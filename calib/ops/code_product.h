// SPDX-License-Identifier: Apache-2.0
// Products and convolutions of 8-bit codes with int32 sums, and the way from sums back to floats and codes. Runs on the
// integer kernels of Threads::integers(); without them, or for zero points that they do not take, on the plain versions
// of integer_product.h, which give the same numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/op.h"
#include "calib/ops/conv.h"
#include "calib/ops/matmul.h"
#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// int32 sums of (a - a_zero)(b - b_zero), wrapping around. Zero points are empty, one, or one per row of A (`a_zero`)
/// or column of B (`b_zero`), of 8-bit types like the codes. Error(Code::input) otherwise.
Tensor product_of_codes(Threads& threads, const MatMulPlan& plan, const Tensor& a, const Tensor& a_zero,
                        const Tensor& b, const Tensor& b_zero);

/// The same for a convolution: int32 [N, M, spatial...]. Zero points: one for the image, one or one per output channel
/// for the kernel.
Tensor convolution_of_codes(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                            const Tensor& kernel, const Tensor& kernel_zero);

/// Who shares a scale of sums: sums are [outer, n, inner] with scales (and a bias) one in all or one per index of n.
struct SumScales {
  std::vector<float> scales;
  std::int64_t n = 1, inner = 1;
  Tensor bias;  // int32, added to the sums, wrapping around; empty: none
};

/// What becomes of sums: float(sum + bias) * scale as float32, or, for the types i8 and u8, as codes
/// saturate(round_half_even(float(sum + bias) * scale) + zero_point), as ONNX Runtime does.
struct SumsTo {
  SumScales scales;
  DType dtype = DType::f32;
  float zero_point = 0;
};
Tensor scaled_sums(Threads& threads, const Tensor& sums, const SumsTo& to);
/// The same of the sums that product_of_codes() and convolution_of_codes() give, without a tensor of sums. Scales: one
/// in all, or one per column of the product or output channel. `prepared`: of the operator whose kernel this is; null:
/// the kernel may be another one in the next run.
Tensor scaled_product_of_codes(Threads& threads, const MatMulPlan& plan, const Tensor& a, const Tensor& a_zero,
                               const Tensor& b, const Tensor& b_zero, const SumsTo& to);
Tensor scaled_convolution_of_codes(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                                   const Tensor& kernel, const Tensor& kernel_zero, const SumsTo& to,
                                   Prepared* prepared);

/// OpDef::prepares of operators whose operand 3 that kernel is.
std::int64_t kernel_floats(const Node&, std::size_t i, const Tensor& kernel);

}  // namespace qtool

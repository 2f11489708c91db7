// SPDX-License-Identifier: Apache-2.0
// Products of stacks of matrices, as numpy.matmul broadcasts them. For the operators that end in a product.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/linalg.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// Which matrices of two stacks meet. Offsets count elements; one entry per matrix of the result.
struct MatMulPlan {
  Shape output;
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  std::vector<std::int64_t> a_offsets, b_offsets;
  std::int64_t batches() const { return static_cast<std::int64_t>(a_offsets.size()); }
};

/// Error(Code::input) when the shapes do not fit. A 1-D operand is a row on the left, a column on the right.
MatMulPlan plan_matmul(const Shape& a, const Shape& b, bool transpose_a = false, bool transpose_b = false);

/// Shape of the result for shapes with unknown extents (-1).
Shape infer_matmul(const Shape& a, const Shape& b, bool transpose_a = false, bool transpose_b = false);

/// C = alpha * op(A) op(B), all dense. T: float or double.
template <class T>
void multiply_stacks(Threads& threads, const MatMulPlan& plan, T alpha, const T* a, const T* b, T* c);

/// Gradients of the same; dA and dB may be null, and are overwritten.
void multiply_stacks_backward(Threads& threads, const MatMulPlan& plan, float alpha, const float* a, const float* b,
                              const float* dc, float* da, std::int64_t a_count, float* db, std::int64_t b_count);

}  // namespace qtool

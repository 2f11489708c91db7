// SPDX-License-Identifier: Apache-2.0
// CrossSum: how inputs of a layer in the float model and in the quantized one part, as far as the layer can make up for
// it (gptq.md 4.4, arXiv 2504.02692):
//
//   C = (2 / T) (Xf - Xq)^T Xq      [n, n], not symmetric
#pragma once

#include <cstdint>
#include <span>

#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool {

class CrossSum {
 public:
  explicit CrossSum(std::int64_t n);
  /// The same rows of both models, n numbers each. Pairs with NaN or infinity in either are left out.
  void add(std::span<const float> floats, std::span<const float> quantized, Threads&);
  std::int64_t rows() const { return rows_; }
  /// float64 [n, n]. Requires: rows() > 0.
  Tensor matrix(Threads&) const;

 private:
  std::int64_t n_;
  Tensor sums_;  // float64 [n, n]
  std::int64_t rows_ = 0;
};

}  // namespace qtool

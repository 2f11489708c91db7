// SPDX-License-Identifier: Apache-2.0
// Dense products on the right kernels. OpenBLAS picks kernels when it is loaded and can pick badly without a word,
// so qtool chooses the core type that fits the processor first and then opens libopenblas at run time. A user's
// OPENBLAS_CORETYPE stands, and its cost is shown by `doctor`. Always called single-threaded, on tiles whose cut
// ignores the thread count; our pool runs the tiles. Without libopenblas: Eigen.
#pragma once

#include <cstdint>
#include <string>

#include "formats/base/threads.h"

namespace qtool {

/// C[m,n] = alpha * op(A) op(B) + beta * C, row-major, leading dimensions in elements. Cut into tiles by shape
/// alone; same bytes for any thread count.
void gemm(Threads&, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);
/// The same in double.
void gemm(Threads&, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
          const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
          std::int64_t ldc);

/// What computes, and who decided.
struct LinalgInfo {
  std::string library;    // "OpenBLAS 0.3.21" or "Eigen 3.4.0"
  std::string core;       // "SkylakeX", ...
  std::string chosen_by;  // "qtool", "environment (OPENBLAS_CORETYPE)", "OpenBLAS"
  std::string widest;     // widest vectors of the processor: "avx512", "avx2", "sse"
  bool narrow = false;    // the core uses less than the processor's widest vectors: worth a warning
};
/// Thread-safe; loads the library on first use.
const LinalgInfo& linalg_info();

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// The door to OpenBLAS: opened at run time, after the core type that fits the processor was chosen. For
// calib/linalg.cpp alone.
#pragma once

#include <cstdint>

#include "calib/linalg.h"

namespace qtool::openblas {

/// Column-free subset of the CBLAS interface (32-bit integers, row-major = 101, no transpose = 111, transpose = 112).
template <class T>
using Gemm = void (*)(int order, int transpose_a, int transpose_b, int m, int n, int k, T alpha, const T* a, int lda,
                      const T* b, int ldb, T beta, T* c, int ldc);
template <class T>
using Gemv = void (*)(int order, int transpose, int m, int n, T alpha, const T* a, int lda, const T* x, int incx,
                      T beta, T* y, int incy);

struct Library {
  Gemm<float> sgemm = nullptr;  // all null: no usable libopenblas on this machine
  Gemm<double> dgemm = nullptr;
  Gemv<float> sgemv = nullptr;
  Gemv<double> dgemv = nullptr;
  LinalgInfo info;
};

/// Opens the library on first use and keeps it; thread-safe.
const Library& library();

/// Widest vectors of this processor that the operating system has enabled: "avx512", "avx2" or "sse".
const char* widest_vectors();

}  // namespace qtool::openblas

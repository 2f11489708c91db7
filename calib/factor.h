// SPDX-License-Identifier: Apache-2.0
// Triangular factors of symmetric positive definite matrices, on the tiles of calib/linalg.h: the same bytes for any
// number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "formats/base/threads.h"

namespace qtool {

/// The reversed Cholesky factor: H = C C^T with C upper triangular, taken from the last column to the first
/// (gptq.md section 4, step B: one factorization and no inverse). `h` [n, n] row-major: the upper triangle of H,
/// replaced by C; what lies below the diagonal is neither read nor kept. n^3 / 3 flops. False, with `h` spoilt, where a
/// pivot is not positive (the matrix is not positive definite, or holds NaN).
bool factor_reversed(Threads&, std::int64_t n, std::span<double> h);

/// X = B H^-1 for H = C C^T: rows of `b` [rows, n] are replaced. `c`: from factor_reversed().
void solve_reversed(Threads&, std::int64_t n, std::span<const double> c, std::int64_t rows, std::span<double> b);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "calib/factor.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "calib/linalg.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

constexpr std::int64_t block = 128;  // columns that are factored one by one
constexpr std::int64_t strip = 256;  // rows of what remains that one chunk updates

/// The factor of a small block in place, columns from the last to the first.
bool factor_small(std::int64_t n, double* h, std::int64_t ld) {
  for (std::int64_t j = n - 1; j >= 0; --j) {
    const double pivot = h[j * ld + j];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    h[j * ld + j] = root;
    for (std::int64_t i = 0; i < j; ++i) h[i * ld + j] /= root;
    for (std::int64_t a = 0; a < j; ++a) {
      const double x = h[a * ld + j];
      for (std::int64_t b = a; b < j; ++b) h[a * ld + b] -= x * h[b * ld + j];
    }
  }
  return true;
}

/// The inverse of a small upper triangle, which is upper triangular as well.
std::vector<double> inverse_of(std::int64_t n, const double* c, std::int64_t ld) {
  std::vector<double> inverse(static_cast<std::size_t>(n * n));
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = j; i >= 0; --i) {
      double sum = i == j ? 1.0 : 0.0;
      for (std::int64_t k = i + 1; k <= j; ++k) sum -= c[i * ld + k] * inverse[static_cast<std::size_t>(k * n + j)];
      inverse[static_cast<std::size_t>(i * n + j)] = sum / c[i * ld + i];
    }
  }
  return inverse;
}

}  // namespace

bool factor_reversed(Threads& threads, std::int64_t n, std::span<double> h) {
  QTOOL_ENSURE(h.size() == static_cast<std::size_t>(n * n), "the matrix is square");
  std::vector<double> panel;
  for (std::int64_t end = n; end > 0; end -= std::min(block, end)) {
    const std::int64_t begin = std::max<std::int64_t>(0, end - block), width = end - begin;
    double* diagonal = h.data() + begin * n + begin;
    if (!factor_small(width, diagonal, n)) return false;
    if (begin == 0) break;
    // C_above C_diagonal^T = H_above.
    const std::vector<double> inverse = inverse_of(width, diagonal, n);
    panel.resize(static_cast<std::size_t>(begin * width));
    gemm(threads, false, true, begin, width, width, 1.0, h.data() + begin, n, inverse.data(), width, 0.0, panel.data(),
         width);
    threads.for_each(begin, strip, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        std::copy_n(panel.data() + i * width, width, h.data() + i * n + begin);
      }
      gemm(threads, false, true, last - first, begin - first, width, -1.0, panel.data() + first * width, width,
           panel.data() + first * width, width, 1.0, h.data() + first * n + first, n);
    });
  }
  return true;
}

void solve_reversed(Threads& threads, std::int64_t n, std::span<const double> c, std::int64_t rows,
                    std::span<double> b) {
  QTOOL_ENSURE(c.size() == static_cast<std::size_t>(n * n) && b.size() == static_cast<std::size_t>(rows * n),
               "rows are as long as the factor is wide");
  std::vector<double> part(static_cast<std::size_t>(rows * block));
  const auto times_inverse = [&](std::int64_t begin, std::int64_t width, bool transposed) {
    const std::vector<double> inverse = inverse_of(width, c.data() + begin * n + begin, n);
    gemm(threads, false, transposed, rows, width, width, 1.0, b.data() + begin, n, inverse.data(), width, 0.0,
         part.data(), width);
    for (std::int64_t r = 0; r < rows; ++r) std::copy_n(part.data() + r * width, width, b.data() + r * n + begin);
  };
  // X C C^T = B: first Y with Y C^T = B, columns from the last to the first.
  for (std::int64_t end = n; end > 0; end -= std::min(block, end)) {
    const std::int64_t begin = std::max<std::int64_t>(0, end - block), width = end - begin;
    if (end < n) {
      gemm(threads, false, true, rows, width, n - end, -1.0, b.data() + end, n, c.data() + begin * n + end, n, 1.0,
           b.data() + begin, n);
    }
    times_inverse(begin, width, true);
  }
  // Then X with X C = Y, columns from the first to the last.
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t width = std::min(block, n - begin);
    if (begin > 0) {
      gemm(threads, false, false, rows, width, begin, -1.0, b.data(), n, c.data() + begin, n, 1.0, b.data() + begin, n);
    }
    times_inverse(begin, width, false);
  }
}

}  // namespace qtool

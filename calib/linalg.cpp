// SPDX-License-Identifier: Apache-2.0
#include "calib/linalg.h"

#include <Eigen/Core>
#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>

#include "calib/linalg_openblas.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

// Below this many products the call costs more than the loop.
constexpr std::int64_t tiny_products = 4096;
// Below this many products one tile is faster than waking the pool.
constexpr std::int64_t small_products = 1 << 18;

/// op(A) [m,k] and op(B) [k,n] with where their rows begin.
template <class T>
struct Problem {
  bool transpose_a, transpose_b;
  std::int64_t m, n, k;
  T alpha;
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t ldb;
  T beta;
  T* c;
  std::int64_t ldc;

  /// Rows [row, row+rows) and columns [column, column+columns) of C.
  Problem tile(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) const {
    Problem p = *this;
    p.a += transpose_a ? row : row * lda;
    p.b += transpose_b ? column * ldb : column;
    p.c += row * ldc + column;
    p.m = rows;
    p.n = columns;
    return p;
  }
};

template <class T>
void scale(const Problem<T>& p) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    T* row = p.c + i * p.ldc;
    if (p.beta == T(0)) {
      std::fill(row, row + p.n, T(0));
    } else if (p.beta != T(1)) {
      for (std::int64_t j = 0; j < p.n; ++j) row[j] *= p.beta;
    }
  }
}

template <class T>
void multiply_plain(const Problem<T>& p) {
  scale(p);
  for (std::int64_t i = 0; i < p.m; ++i) {
    T* row = p.c + i * p.ldc;
    if (p.transpose_b) {
      for (std::int64_t j = 0; j < p.n; ++j) {
        T sum = 0;
        for (std::int64_t l = 0; l < p.k; ++l)
          sum += p.a[p.transpose_a ? l * p.lda + i : i * p.lda + l] * p.b[j * p.ldb + l];
        row[j] += p.alpha * sum;
      }
    } else {
      with_widest_vectors([&]() QTOOL_INLINE {
        for (std::int64_t l = 0; l < p.k; ++l) {
          const T x = p.alpha * p.a[p.transpose_a ? l * p.lda + i : i * p.lda + l];
          const T* b = p.b + l * p.ldb;
          for (std::int64_t j = 0; j < p.n; ++j) row[j] += x * b[j];
        }
      });
    }
  }
}

template <class T>
void multiply_eigen(const Problem<T>& p) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using View = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;
  const View a(p.a, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, Eigen::OuterStride<>(p.lda));
  const View b(p.b, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, Eigen::OuterStride<>(p.ldb));
  Eigen::Map<Matrix, 0, Eigen::OuterStride<>> c(p.c, p.m, p.n, Eigen::OuterStride<>(p.ldc));
  scale(p);
  if (p.transpose_a && p.transpose_b) {
    c.noalias() += p.alpha * (a.transpose() * b.transpose());
  } else if (p.transpose_a) {
    c.noalias() += p.alpha * (a.transpose() * b);
  } else if (p.transpose_b) {
    c.noalias() += p.alpha * (a * b.transpose());
  } else {
    c.noalias() += p.alpha * (a * b);
  }
}

template <class T>
void multiply_openblas(const Problem<T>& p, openblas::Gemm<T> gemm, openblas::Gemv<T> gemv) {
  constexpr int row_major = 101, plain = 111, transposed = 112;
  const auto i32 = [](std::int64_t v) {
    QTOOL_ENSURE(v <= std::numeric_limits<int>::max(), "a tile fits 32-bit BLAS integers");
    return static_cast<int>(v);
  };
  // One row or one column: the matrix-vector kernels read the matrix once, without packing it.
  // They scale what the result held, and some versions keep its NaN while they multiply by 0.
  if (p.beta == T(0) && (p.m == 1 || p.n == 1)) scale(p);
  if (p.m == 1) {
    const std::int64_t rows = p.transpose_b ? p.n : p.k, columns = p.transpose_b ? p.k : p.n;
    gemv(row_major, p.transpose_b ? plain : transposed, i32(rows), i32(columns), p.alpha, p.b, i32(p.ldb), p.a,
         p.transpose_a ? i32(p.lda) : 1, p.beta, p.c, 1);
    return;
  }
  if (p.n == 1) {
    const std::int64_t rows = p.transpose_a ? p.k : p.m, columns = p.transpose_a ? p.m : p.k;
    gemv(row_major, p.transpose_a ? transposed : plain, i32(rows), i32(columns), p.alpha, p.a, i32(p.lda), p.b,
         p.transpose_b ? 1 : i32(p.ldb), p.beta, p.c, i32(p.ldc));
    return;
  }
  gemm(row_major, p.transpose_a ? transposed : plain, p.transpose_b ? transposed : plain, i32(p.m), i32(p.n), i32(p.k),
       p.alpha, p.a, i32(p.lda), p.b, i32(p.ldb), p.beta, p.c, i32(p.ldc));
}

template <class T>
void multiply_tile(const Problem<T>& p) {
  const openblas::Library& blas = openblas::library();
  if constexpr (std::is_same_v<T, float>) {
    if (blas.sgemm != nullptr) return multiply_openblas(p, blas.sgemm, blas.sgemv);
  } else {
    if (blas.dgemm != nullptr) return multiply_openblas(p, blas.dgemm, blas.dgemv);
  }
  multiply_eigen(p);
}

std::int64_t tile_extent(std::int64_t extent, std::int64_t pieces, std::int64_t unit) {
  const std::int64_t each = (extent + pieces - 1) / pieces;
  return (each + unit - 1) / unit * unit;
}

template <class T>
void multiply(Threads& threads, const Problem<T>& p) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k <= 0 || p.alpha == T(0)) return scale(p);
  const double products = static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  if (products <= tiny_products) return multiply_plain(p);
  if (products <= small_products) return multiply_tile(p);
  // Packing costs 1/m + 1/n of the work, so tiles are as large as lets several threads share one product. The cut
  // depends on the shape alone.
  constexpr std::int64_t wanted = 512, unit = 32;
  const std::int64_t rows = p.m <= wanted ? p.m : tile_extent(p.m, (p.m + wanted - 1) / wanted, unit);
  const std::int64_t row_tiles = (p.m + rows - 1) / rows;
  const std::int64_t pieces =
      std::max<std::int64_t>((p.n + 2 * wanted - 1) / (2 * wanted), (8 + row_tiles - 1) / row_tiles);
  const std::int64_t columns = std::max<std::int64_t>(tile_extent(p.n, pieces, unit), 64);
  const std::int64_t column_tiles = (p.n + columns - 1) / columns;
  threads.for_each(row_tiles * column_tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t row = t / column_tiles * rows, column = t % column_tiles * columns;
      multiply_tile(p.tile(row, std::min(rows, p.m - row), column, std::min(columns, p.n - column)));
    }
  });
}

LinalgInfo describe() {
  const openblas::Library& blas = openblas::library();
  if (blas.sgemm != nullptr) return blas.info;
  LinalgInfo info;
  info.library = "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                 std::to_string(EIGEN_MINOR_VERSION);
  info.core = Eigen::SimdInstructionSetsInUse();
  info.chosen_by = "the build";
  info.widest = openblas::widest_vectors();
  info.narrow = info.widest != "sse";
  return info;
}

}  // namespace

void gemm(Threads& threads, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
  multiply(threads, Problem<float>{transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc});
}

void gemm(Threads& threads, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          double alpha, const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
          std::int64_t ldc) {
  multiply(threads, Problem<double>{transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc});
}

const LinalgInfo& linalg_info() {
  static const LinalgInfo info = describe();
  return info;
}

}  // namespace qtool

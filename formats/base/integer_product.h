// SPDX-License-Identifier: Apache-2.0
// Products of matrices of 8-bit codes with 32-bit sums, and who computes them. Operators ask Threads::integers() for
// the kernels; the program chooses them (backends/cpu), so that what runs models knows no instruction set of integers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "formats/base/widest.h"

namespace qtool {

class Threads;

/// A matrix of 8-bit codes that lies in somebody else's memory. Stored row by row; `transposed`: the operand is the
/// transpose of what is stored.
struct CodeMatrix {
  const std::byte* codes = nullptr;
  std::int64_t stride = 0;  // bytes from one stored row to the next
  bool is_signed = false, transposed = false;
  std::span<const std::int32_t> zero_points;  // of the codes' type: none (0), one, or one per row of A, column of B
  /// Where given, for B only: element (l, j) is codes[rows[l / 4] + columns[j / 8] + j % 8 * 4 + l % 4], k is a
  /// multiple of 4 and n one of 8, there is an even number of columns, and codes are signed. So an image is its own
  /// matrix of columns.
  const std::int64_t *rows = nullptr, *columns = nullptr;
};

/// saturate(round_half_even(x) + zero_point) of one value; `low` and `high`: the range of T less the zero point. NaN
/// becomes the zero point.
template <class T>
QTOOL_INLINE inline T code_of(float x, float low, float high, float zero_point) {
  constexpr float round_bias = 12582912.0F;  // 1.5 * 2^23: rounds to nearest, ties to even
  const float cut = x >= low ? (x <= high ? x : high) : (x < low ? low : 0.0F);
  return static_cast<T>(static_cast<std::int32_t>((cut + round_bias) - round_bias + zero_point));
}

/// What becomes of sums on their way out: float(sum + bias) * scale, as floats or, by code_of(), as codes.
struct SumScaling {
  const float* scales = nullptr;       // one per row of the result, or one per column
  const std::int32_t* bias = nullptr;  // likewise, added modulo 2^32; null: none
  bool by_row = true;
  float* floats = nullptr;  // one of the two
  std::uint8_t* codes = nullptr;
  float zero_point = 0, low = 0, high = 0;  // of codes
};

/// c[i * c_stride + j] = sum over l < k of (a[i,l] - a zero point) * (b[l,j] - b zero point), modulo 2^32: exact where
/// the sum fits int32. Empty extents are allowed; k = 0 gives zeros. With `scaling`, which requires k > 0, c is not
/// used.
struct IntegerProduct {
  std::int64_t m = 0, n = 0, k = 0;
  CodeMatrix a, b;
  std::int32_t* c = nullptr;
  std::int64_t c_stride = 0;  // elements from row to row, of what `scaling` writes too
  const SumScaling* scaling = nullptr;
  /// Columns come in lines of `line`; the first `kept` of each are written, one line behind the other. 0: all of them.
  std::int64_t line = 0, kept = 0;
};

/// Weights in blocks along k with a scale and a zero point each, and rows of codes cut alike:
///   c[i * c_stride + j] = sum over blocks q, in their order, of
///                         (float(sum over l in q of a[i,l] * w[j,l]) - b_zeros[j,q] * float(sum of a[i,l]))
///                         * (b_scales[j,q] * a_scales[i,q])
/// with w the codes of b, in float32 as written. Requires: k > 0, and a[i,l] in [-127, 127].
struct BlockProduct {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t block = 0, bits = 0;                     // 16 to 65536, a multiple of 16; 2, 4 or 8
  const std::int8_t* a = nullptr;                       // [m, k]
  const float* a_scales = nullptr;                      // [m, blocks], blocks = ceil(k / block)
  const std::byte* b = nullptr;                         // [n, blocks, block * bits / 8], low bits first
  const float *b_scales = nullptr, *b_zeros = nullptr;  // [n, blocks]
  float* c = nullptr;
  std::int64_t c_stride = 0;  // elements

  std::int64_t blocks() const { return (k + block - 1) / block; }
};

/// Immutable, and safe to use from several threads. The same bytes from every implementation and number of threads.
class IntegerKernels {
 public:
  virtual std::string_view name() const = 0;
  virtual void multiply(Threads&, const IntegerProduct&) const = 0;
  virtual void multiply(Threads&, const BlockProduct&) const = 0;

 protected:
  ~IntegerKernels() = default;
};

}  // namespace qtool

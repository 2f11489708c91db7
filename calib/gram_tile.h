// SPDX-License-Identifier: Apache-2.0
// The inner kernels of X^T X (calib/hessian.h): both factors are columns of one matrix that lies in panels, so that it
// is laid out once for both sides and only tiles of the upper triangle are formed.
//
// Kernels of bfloat16 round X to it once and sum exact products in float32, in float64 above. All but the one with
// tiles give the same bits on every processor; tiles add in another order.
#pragma once

#include <cstdint>

#include "formats/base/processor.h"
#include "formats/base/widest.h"

namespace qtool {

/// What X is taken as when it is multiplied.
enum class GramFormat : std::uint8_t { f32, bf16 };

struct GramKernel {
  /// Rows whose products are summed in float32; such sums are added in float64.
  static constexpr std::int64_t chain = 512;
  /// Of a panel and of all tiles that are formed by one call in columns, and of those in rows; divisors of 96.
  static constexpr std::int64_t most_width = 48, most_height = 32;

  const char* name;
  std::int64_t width, height;
  std::int64_t depth;         // panels hold a multiple of so many rows, zeros at the end
  std::int64_t column_bytes;  // of an element in a panel

  /// Rows of a panel that holds so many.
  std::int64_t filled(std::int64_t rows) const { return (rows + depth - 1) / depth * depth; }
  std::int64_t panel_bytes(std::int64_t rows) const { return filled(rows) * width * column_bytes; }
  /// Lays columns [0, columns) of rows [begin, end) out; x: the first column of row 0, rows `stride` apart. Each part
  /// begins at a multiple of 32; the last one fills up what is missing.
  void (*lay_out)(const float* x, std::int64_t stride, std::int64_t columns, std::int64_t begin, std::int64_t end,
                  std::int64_t rows, void* panel);
  /// c[i * ldc + j] += sum over filled rows of left[column + i] * right[j], for i < height, j < width; column: a
  /// multiple of `height`.
  void (*add)(std::int64_t rows, const void* left, std::int64_t column, const void* right, double* c, std::int64_t ldc);

  /// The best for `vectors` and, where it may use more, the processor. f32: kernels with fused multiply-add (avx2,
  /// avx512) give the same bits.
  static const GramKernel& of(GramFormat format, Vectors vectors, const Processor& processor);
};

}  // namespace qtool

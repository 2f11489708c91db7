// SPDX-License-Identifier: Apache-2.0
// IntegerKernel: the inner loops of integer products for one instruction set, one file each, listed in list.inc. All
// give the same bytes. The code around them (packing, cutting, zero points) is one for all: product.cpp.
//
// Inside, the left operand is unsigned and the right one signed, as the instructions want it: flipping the top bit of a
// code turns one into the other and moves its zero point by 128.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "formats/base/integer_product.h"
#include "formats/base/processor.h"

namespace qtool {

inline constexpr std::int64_t panel_columns = 16;

/// sums[r * sums_stride + 16 p + j] (+)= sum over l < depth of a[r * a_stride + l] * b[p * b_stride + l/4*64 + j*4 +
/// l%4] modulo 2^32, for r < rows, p < panels, j < 16. Packed operands are padded with zeros.
struct KernelTile {
  const std::uint8_t* a = nullptr;
  std::int64_t a_stride = 0;  // bytes
  const std::int8_t* b = nullptr;
  std::int64_t b_stride = 0;  // bytes from panel to panel
  std::int64_t depth = 0;     // a multiple of the kernel's depth_step
  std::int64_t rows = 0;      // a multiple of the kernel's row_step
  std::int64_t panels = 0;
  std::int32_t* sums = nullptr;
  std::int64_t sums_stride = 0;  // elements
  bool add = false;              // to what is there
  /// Where given, b[p * b_stride + l/4*64 + j*4 + l%4] is instead b[rows_of_b[l/4] + columns_of_b[2p + j/8] + j%8*4 +
  /// l%4]. Only for kernels that gather.
  const std::int64_t *rows_of_b = nullptr, *columns_of_b = nullptr;
};

/// Element [r * c_stride + j] of c, floats or codes, whichever is given, is made of
/// sums[r * sums_stride + j] + by_row[r] + by_column[j] modulo 2^32, for j < columns; see SumScaling.
struct KernelResult {
  const std::uint32_t *sums = nullptr, *by_row = nullptr, *by_column = nullptr;
  std::uint32_t* c = nullptr;
  std::int64_t rows = 0, columns = 0, sums_stride = 0, c_stride = 0;
  float* floats = nullptr;
  std::uint8_t* codes = nullptr;
  const float *row_scales = nullptr, *column_scales = nullptr;  // one of the two
  float zero_point = 0, low = 0, high = 0;
};

/// to[r * stride + j] += (float(sums[r * stride + j]) - row_zeros[r * row_step] * column_sums[j])
///                       * (row_scales[r * row_step] * column_scales[j]), in float32 as written.
struct KernelBlock {
  const std::int32_t* sums = nullptr;
  float* to = nullptr;
  std::int64_t rows = 0, columns = 0, stride = 0;
  const float *row_scales = nullptr, *row_zeros = nullptr;
  std::int64_t row_step = 0;
  const float *column_scales = nullptr, *column_sums = nullptr;
};

struct IntegerKernel {
  std::string_view name, needs;  // "avx2", "AVX2"
  bool (*runs)(const Processor&);
  std::int64_t row_step, depth_step;
  void (*multiply)(const KernelTile&);
  void (*finish)(const KernelResult&);
  void (*add_block)(const KernelBlock&);
  bool gathers;  // reads the right operand from where it lies
};

/// All that were built, best first; the last one, `reference`, runs everywhere.
std::span<const IntegerKernel* const> integer_kernels();
/// The same products on one kernel. Requires: it runs here.
void multiply_codes(const IntegerKernel&, Threads&, const IntegerProduct&);
void multiply_blocks(const IntegerKernel&, Threads&, const BlockProduct&);

/// Them as operators ask for them.
class OnKernel final : public IntegerKernels {
 public:
  /// Keeps a reference to the kernel. Requires: it runs here.
  explicit OnKernel(const IntegerKernel& kernel) : kernel_(kernel) {}
  std::string_view name() const override { return kernel_.name; }
  void multiply(Threads& threads, const IntegerProduct& p) const override { multiply_codes(kernel_, threads, p); }
  void multiply(Threads& threads, const BlockProduct& p) const override { multiply_blocks(kernel_, threads, p); }

 private:
  const IntegerKernel& kernel_;
};

namespace kernel {
#define QTOOL_KERNEL(name) extern const IntegerKernel name;
#include "backends/cpu/list.inc"
#undef QTOOL_KERNEL
}  // namespace kernel

namespace detail {

/// The body of every kernel's `finish`, compiled in its file for its instruction set.
template <class T, class F>
__attribute__((always_inline)) inline void fill_row(T* to, std::int64_t n, const F& f) {
  QTOOL_INDEPENDENT
  for (std::int64_t j = 0; j < n; ++j) to[j] = f(j);
}

__attribute__((always_inline)) inline void finish_plainly(const KernelResult& given) {
  const KernelResult f = given;  // that no store of bytes can change
  for (std::int64_t r = 0; r < f.rows; ++r) {
    const std::uint32_t *from = f.sums + r * f.sums_stride, *column = f.by_column, row = f.by_row[r];
    const float* const scales = f.column_scales;
    const float scale = f.row_scales == nullptr ? 0.0F : f.row_scales[r];
    const float low = f.low, high = f.high, zero = f.zero_point;
    const std::int64_t n = f.columns, first = r * f.c_stride;
    const auto sum = [=](std::int64_t j) QTOOL_INLINE {
      return static_cast<float>(static_cast<std::int32_t>(from[j] + row + column[j]));
    };
    if (f.codes != nullptr && scales == nullptr) {
      fill_row(f.codes + first, n,
               [=](std::int64_t j) QTOOL_INLINE { return code_of<std::uint8_t>(sum(j) * scale, low, high, zero); });
    } else if (f.codes != nullptr) {
      fill_row(f.codes + first, n,
               [=](std::int64_t j) QTOOL_INLINE { return code_of<std::uint8_t>(sum(j) * scales[j], low, high, zero); });
    } else if (f.floats != nullptr && scales == nullptr) {
      fill_row(f.floats + first, n, [=](std::int64_t j) QTOOL_INLINE { return sum(j) * scale; });
    } else if (f.floats != nullptr) {
      fill_row(f.floats + first, n, [=](std::int64_t j) QTOOL_INLINE { return sum(j) * scales[j]; });
    } else {
      fill_row(f.c + first, n, [=](std::int64_t j) QTOOL_INLINE { return from[j] + row + column[j]; });
    }
  }
}

/// The body of every kernel's `add_block`, likewise.
__attribute__((always_inline)) inline void add_block_plainly(const KernelBlock& b) {
  for (std::int64_t r = 0; r < b.rows; ++r) {
    const std::int32_t* __restrict from = b.sums + r * b.stride;
    const float* __restrict column_sums = b.column_sums, * __restrict column_scales = b.column_scales;
    float* __restrict to = b.to + r * b.stride;
    const float zero = b.row_zeros[r * b.row_step], scale = b.row_scales[r * b.row_step];
    for (std::int64_t j = 0; j < b.columns; ++j) {
      to[j] += (static_cast<float>(from[j]) - zero * column_sums[j]) * (scale * column_scales[j]);
    }
  }
}

}  // namespace detail
}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// CodePlanes: an image of 8-bit codes laid out so that it is its own matrix of columns, as kernels read it: padding
// written out, lines cut into one part per residue of the column modulo the stride, and four channels side by side.
// Entry (l, j) of the matrix lies at rows[l / 4] + columns[j / 8] + j % 8 * 4 + l % 4: l counts channels by fours, then
// taps, then the four; j counts outputs in lines of `width`. Codes are signed: those of u8 less 128.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/ops/conv.h"
#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool {

class CodePlanes {
 public:
  /// The layout for one image and group; `rows` stays empty where strides or padding would make the planes far larger
  /// than the image and the result.
  explicit CodePlanes(const Convolution& c);

  std::vector<std::int64_t> rows, columns;

  /// Length of a line of outputs: that of the window, rounded up to a multiple of 8.
  std::int64_t width() const { return width_; }

  /// Number of rows of the matrix, with channels up to a multiple of four.
  std::int64_t depth() const { return 4 * static_cast<std::int64_t>(rows.size()); }

  /// Bytes of an image laid out.
  std::int64_t size() const { return fours() * depth_ * height_ * line(); }

  /// Lays out channels of one group of one image. `outside`: the code of what lies outside. `flip`: 0x80 for u8, else
  /// 0.
  void fill(Threads& threads, const std::uint8_t* image, std::uint8_t outside, std::uint8_t flip,
            std::uint8_t* planes) const;

 private:
  std::int64_t fours() const { return (c_.inputs + 3) / 4; }

  const Convolution& c_;
  std::int64_t width_ = 0, depth_ = 0, height_ = 0;  // of outputs in a line; planes and lines of a channel
  std::int64_t part_ = 0;                            // columns of one part of a line
  std::vector<std::int64_t> residues_;               // the parts that taps use
  std::int64_t line() const { return 4 * part_ * static_cast<std::int64_t>(residues_.size()); }
};

/// A kernel [M, C, taps...] of codes in the order of such rows: M lines of depth() bytes. Channels that it has not are
/// 0, and meet what lies outside.
std::int64_t size_by_fours(const Tensor& kernel);
void order_by_fours(const Tensor& kernel, std::byte* to);

}  // namespace qtool

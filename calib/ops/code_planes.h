// SPDX-License-Identifier: Apache-2.0
// CodePlanes: an image of 8-bit codes laid out so that it is its own matrix of columns: padding written out, and lines
// cut into one part per residue of the column modulo the stride, so that neighbouring outputs see neighbouring bytes.
// Entry (l, j) of the matrix lies at rows[l] + columns[j / 8] + j % 8, where l counts input channels and taps as the
// kernel does, and j outputs in lines of `width`.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/ops/conv.h"
#include "formats/base/threads.h"

namespace qtool {

class CodePlanes {
 public:
  /// The layout for one image and group; `rows` stays empty where strides or padding would make the planes far larger
  /// than the image and the result.
  explicit CodePlanes(const Convolution& c);

  std::vector<std::int64_t> rows, columns;

  /// Length of a line of outputs: that of the window, rounded up to a multiple of 8.
  std::int64_t width() const { return width_; }

  /// Lays out channels of one group of one image; `outside`: the code of what lies outside.
  void fill(Threads& threads, const std::uint8_t* image, std::uint8_t outside, std::vector<std::uint8_t>& planes) const;

 private:
  const Convolution& c_;
  std::int64_t width_ = 0, depth_ = 0, height_ = 0;  // of outputs in a line; planes and lines of a channel
  std::int64_t part_ = 0;                            // bytes of one part of a line
  std::vector<std::int64_t> residues_;               // the parts that taps use
  std::int64_t line() const { return part_ * static_cast<std::int64_t>(residues_.size()); }
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// A constant of the file that is held as codes, unpacked row by row: each code with its scale and its zero point.
#pragma once

#include <optional>
#include <vector>

#include "backends/verify/scene.h"

namespace qtool::verify {

class Coded {
 public:
  /// Codes with one scale, one per index of `axis`, or one per `block` (not 0) of elements along it. Empty when shapes
  /// do not fit, or types are none of those that hold codes.
  static std::optional<Coded> tensor(const TensorView& codes, std::vector<float> scales, const TensorView* zero,
                                     std::int64_t axis, std::int64_t block);
  /// The weight of MatMulNBits as [N, K], the table of GatherBlockQuantized as [rows, width].
  static std::optional<Coded> blocks(const Scene&, const NodeView&);

  std::vector<std::int64_t> dims;  // logical
  std::string_view name;
  std::int32_t type = 0;             // of the codes: u4 where a byte holds two
  std::int64_t rows = 0, width = 0;  // dims, in row-major order, cut into rows of equal length

  /// Requires: spans of `width` elements.
  void codes(std::int64_t row, std::span<std::int32_t> out) const;
  void scales(std::int64_t row, std::span<float> scale, std::span<float> zero) const;
  std::int64_t scale_count() const { return static_cast<std::int64_t>(scale_.size()); }
  const std::vector<float>& scale_values() const { return scale_; }
  /// Whether all scales and zero points are those of `other`.
  bool has_parameters_of(const Coded& other) const { return scale_ == other.scale_ && zero_ == other.zero_; }

 private:
  const TensorView* codes_ = nullptr;
  std::vector<float> scale_, zero_;
  std::int64_t outer_step_ = 0, extent_ = 1, inner_ = 1, block_ = 0;
  std::int64_t bits_ = 0, row_bytes_ = 0;  // packed into bytes of uint8, each row from a byte on; 0 bits: no
};

}  // namespace qtool::verify

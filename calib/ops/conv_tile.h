// SPDX-License-Identifier: Apache-2.0
// The inner loops of direct convolution: a tile of output channels x neighbouring positions is held in registers while
// all input channels and taps are taken in. Each output is one chain of fused multiply-adds over channels and taps in
// memory order of the kernel, so that its bits do not depend on the tile that it lies in, nor on the width of vectors.
#pragma once

#include <cstdint>

#include "formats/base/widest.h"

namespace qtool {

inline constexpr int widest_conv_tile = 8;  // vectors

/// For r of the rows, v of the vectors, i of the lanes:
/// y[r * y_row + y_at[v] + i] = bias[r] + sum over d < depth of kernel[r * kernel_row + d] * x[offsets[d] + x_at[v] +
/// i]
struct ConvTile {
  const float* x = nullptr;
  const std::int32_t* offsets = nullptr;
  std::int64_t depth = 0;
  const float* kernel = nullptr;
  std::int64_t kernel_row = 0;
  const float* bias = nullptr;  // null: zeros
  float* y = nullptr;
  std::int64_t y_row = 0;
  std::int64_t x_at[widest_conv_tile] = {}, y_at[widest_conv_tile] = {};
};

/// Tiles of one instruction set.
struct ConvTiles {
  static constexpr int most_rows = 8;
  int lanes = 0;                     // floats of a vector
  int rows = 0;                      // of the largest tile
  int most_vectors[most_rows] = {};  // of a tile of 1, 2, ... rows
  /// Vectors may overlap; all lanes are read and written.
  void (*compute)(const ConvTile&, int rows, int vectors) = nullptr;  // null: this processor has no tiles
};

const ConvTiles& conv_tiles(Vectors);

}  // namespace qtool

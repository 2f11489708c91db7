// SPDX-License-Identifier: Apache-2.0
// A convolution by minimal filtering is worked on in blocks of tiles, each on one thread. Memory order:
//   transformed kernels  [output panel][point][input channel][16]
//   transformed input    [point][tile of the block][input channel, padded to panels]
//   sums                 [output panel of the group][tile of the block][point][16]
// so that the sums over input channels are products of matrices on the tiles of direct convolution, with tiles of the
// image in the place of output channels. For conv_winograd.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/ops/conv.h"
#include "calib/ops/conv_tile.h"
#include "calib/ops/scratch.h"
#include "calib/ops/winograd_panels.h"

namespace qtool::winograd {

// Neighbouring tiles of one line of tiles that are transformed together, and the columns of the image that they see;
// columns are laid out in eights.
inline constexpr std::int64_t longest_run = 16, run_columns = longest_run * outputs + 2, run_pitch = run_columns + half;
/// Working memory of the transforms.
inline constexpr std::int64_t line_floats = points * run_pitch * panel;
/// Tasks that a convolution is cut into where it has them.
inline constexpr std::int64_t wanted_tasks = 4;

struct Plan {
  const Convolution& c;
  const ConvTiles& tiles;
  Vectors vectors;
  const float *x, *kernel, *bias;  // kernel: transformed
  float* y;
  std::int64_t down, across;          // tiles of an image
  std::int64_t depth;                 // input channels, padded
  std::int64_t panels, group;         // of output channels; of those, summed up together
  std::int64_t block, blocks;         // tiles of a block; blocks of an image
  std::vector<std::int32_t> offsets;  // of input channels in a panel of kernels

  Plan(const Convolution&, Vectors, const float* x, const float* kernel, const float* bias, float* y);

  std::int64_t groups() const { return pieces(panels, group); }
  /// Floats between points of the transformed input: an odd number of panels, for all points of a tile are written one
  /// after the other, and strides of powers of two would meet in one set of the first-level cache.
  std::int64_t point() const { return (block * depth / panel | 1) * panel; }
  std::int64_t input_floats() const { return plane * point(); }
  std::int64_t sum_floats() const { return plane * block * group * panel; }
  std::int64_t work() const { return plane * block * c.inputs * c.outputs; }  // of a block
};

/// Tiles of one line of tiles.
struct Run {
  std::int64_t at;                  // in the block
  std::int64_t row, column, count;  // of its first tile in the image
};

/// A block of tiles of one image.
class Block {
 public:
  Block(const Plan&, std::int64_t number);
  std::int64_t image() const { return image_; }

  /// Panel `number` of input channels; `lines`: line_floats of working memory.
  void transform_input(std::int64_t number, float* v, float* lines) const;
  /// The sums over input channels for group `group` of output channels.
  void multiply(std::int64_t group, const float* v, float* sums) const;
  /// The outputs of the group from its sums; false when some are not finite.
  bool transform_output(std::int64_t group, const float* sums, float* lines) const;

 private:
  void lay(const Run&, std::int64_t channel, float* lines) const;
  void put(const Run&, std::int64_t channel, const float* lines) const;
  void put_line(const float* lines, std::int64_t columns, float* to, std::int64_t channels) const;

  const Plan& p_;
  const Window& w_;
  std::int64_t image_, count_;
  std::vector<Run> runs_;
};

}  // namespace qtool::winograd

// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/winograd_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "calib/ops/scratch.h"
#include "formats/base/widest.h"

namespace qtool::winograd {
namespace {

// Floats of the transformed input and of the sums of a block of tiles, together: for the second-level cache.
constexpr std::int64_t block_floats = 128 * 1024;
// Tiles of a block: fewer make too little of a transformed kernel that comes from memory.
constexpr std::int64_t fewest_tiles = 16;

/// Columns [begin, end) of eight channels.
QTOOL_INLINE inline void lay_line(const float* const (&channels)[half], std::int64_t begin, std::int64_t end,
                                  float* to) {
  for (std::int64_t x = begin; x < end; x += half) {
    if (end - x < half) {
      if (end - begin < half) {
        for (; x < end; ++x) {
          for (std::int64_t r = 0; r < half; ++r) to[x * panel + r] = channels[r][x];
        }
        return;
      }
      x = end - half;  // some once more
    }
    const float* from[half];
    for (std::int64_t r = 0; r < half; ++r) from[r] = channels[r] + x;
    transpose(from, to + x * panel, panel);
  }
}

template <class V>
QTOOL_INLINE inline void transform_columns(const Run& run, float* lines) {
  for (std::int64_t at = 0; at < (run.count * outputs + 2) * panel; at += lanes<V>, lines += lanes<V>) {
    V d[points], v[points];
    for (std::int64_t i = 0; i < points; ++i) load(d[i], lines + i * run_pitch * panel);
    winograd::transform_input(d, v);
    for (std::int64_t i = 0; i < points; ++i) store(lines + i * run_pitch * panel, v[i]);
  }
}

/// A tile of one panel; points are `step` apart.
template <class V>
QTOOL_INLINE inline void transform_rows(const float* lines, float* to, std::int64_t step) {
  for (std::int64_t i = 0; i < points; ++i, lines += run_pitch * panel) {
    for (std::int64_t lane = 0; lane < panel; lane += lanes<V>) {
      V d[points], v[points];
      for (std::int64_t j = 0; j < points; ++j) load(d[j], lines + j * panel + lane);
      winograd::transform_input(d, v);
      for (std::int64_t j = 0; j < points; ++j) store(to + (i * points + j) * step + lane, v[j]);
    }
  }
}

/// The outputs of a tile of one panel are added to `all`, too.
template <class V>
QTOOL_INLINE inline void transform_sums(const float* sums, const V& bias, float* lines, V& all) {
  V rows[outputs][points];
  for (std::int64_t j = 0; j < points; ++j) {
    V m[points], y[outputs];
    for (std::int64_t i = 0; i < points; ++i) load(m[i], sums + (i * points + j) * panel);
    winograd::transform_output(m, y);
    for (std::int64_t i = 0; i < outputs; ++i) rows[i][j] = y[i];
  }
  for (std::int64_t i = 0; i < outputs; ++i) {
    V y[outputs];
    winograd::transform_output(rows[i], y);
    for (std::int64_t j = 0; j < outputs; ++j) {
      y[j] += bias;
      all += y[j];
      store(lines + (i * run_pitch + j) * panel, y[j]);
    }
  }
}

/// Calls f(std::type_identity<V>()) with what fills a vector of the processor, compiled for these.
template <class F>
void with_lanes(Vectors vectors, const F& f) {
  if (vectors == Vectors::avx512) return with_vectors(vectors, [&]() QTOOL_INLINE { f(std::type_identity<Panel>()); });
  with_vectors(vectors, [&]() QTOOL_INLINE { f(std::type_identity<Eight>()); });
}

}  // namespace

Plan::Plan(const Convolution& convolution, Vectors with, const float* image, const float* weights, const float* biases,
           float* out)
    : c(convolution),
      tiles(conv_tiles(with)),
      vectors(with),
      x(image),
      kernel(weights),
      bias(biases),
      y(out),
      down(pieces(c.window.output[1], outputs)),
      across(pieces(c.window.output[2], outputs)),
      depth(pieces(c.inputs, panel) * panel),
      panels(pieces(c.outputs, panel)) {
  // Four vectors leave registers for tiles enough to hide how long a multiplication takes.
  group = pieces(panels, pieces(panels, 4 * tiles.lanes / panel));
  const std::int64_t fitting = block_floats / (plane * (depth + group * panel));
  block = std::min(down * across, std::max(fitting, fewest_tiles));
  blocks = pieces(down * across, block);
  if (c.batch * blocks < wanted_tasks) {
    const std::int64_t smaller = pieces(down * across, pieces(wanted_tasks, c.batch));
    block = std::min(block, std::max(smaller, fewest_tiles));
    blocks = pieces(down * across, block);
  }
  block = pieces(down * across, blocks);
  for (std::int64_t i = 0; i < c.inputs; ++i) offsets.push_back(static_cast<std::int32_t>(i * panel));
}

Block::Block(const Plan& plan, std::int64_t number) : p_(plan), w_(plan.c.window), image_(number / plan.blocks) {
  const std::int64_t first = number % plan.blocks * plan.block;
  count_ = std::min(plan.block, plan.down * plan.across - first);
  for (std::int64_t at = 0; at < count_; at += runs_.back().count) {
    const std::int64_t row = (first + at) / plan.across, column = (first + at) % plan.across;
    runs_.push_back({at, row, column, std::min({count_ - at, plan.across - column, longest_run})});
  }
}

/// The part of the image under the run: [row of 6][column][channel of the panel].
QTOOL_INLINE inline void Block::lay(const Run& run, std::int64_t channel, float* lines) const {
  const std::int64_t size = w_.input_size(), width = w_.input[2], columns = run.count * outputs + 2;
  const float* image = p_.x + image_ * p_.c.inputs * size;
  const std::int64_t y0 = run.row * outputs - w_.pad_begin[1], x0 = run.column * outputs - w_.pad_begin[2];
  const std::int64_t begin = std::clamp<std::int64_t>(-x0, 0, columns);
  const std::int64_t end = std::clamp<std::int64_t>(width - x0, begin, columns);
  for (std::int64_t i = 0; i < points; ++i, lines += run_pitch * panel) {
    const std::int64_t y = y0 + i;
    if (y < 0 || y >= w_.input[1] || begin == end) {
      std::memset(lines, 0, static_cast<std::size_t>(columns * panel) * sizeof(float));
      continue;
    }
    for (std::int64_t lane = 0; lane < panel; lane += half) {
      const float* from[half];
      for (std::int64_t r = 0; r < half; ++r) {  // lanes without a channel are not multiplied with anything
        from[r] = image + std::min(channel + lane + r, p_.c.inputs - 1) * size + y * width + x0;
      }
      lay_line(from, begin, end, lines + lane);
    }
    std::memset(lines, 0, static_cast<std::size_t>(begin * panel) * sizeof(float));
    std::memset(lines + end * panel, 0, static_cast<std::size_t>((columns - end) * panel) * sizeof(float));
  }
}

QTOOL_INLINE inline void Block::put_line(const float* lines, std::int64_t columns, float* to,
                                         std::int64_t channels) const {
  const std::int64_t size = w_.output_size();
  for (std::int64_t x = 0; x < columns; x += half) {
    if (columns - x < half) {
      if (columns < half) {
        for (std::int64_t r = 0; r < channels; ++r) {
          for (std::int64_t i = 0; i < columns; ++i) to[r * size + i] = lines[i * panel + r];
        }
        return;
      }
      x = columns - half;  // some once more
    }
    const float* from[half];
    for (std::int64_t i = 0; i < half; ++i) from[i] = lines + (x + i) * panel;
    if (channels == half) {
      transpose(from, to + x, size);
    } else {
      float rows[half * half];
      transpose(from, rows, half);
      for (std::int64_t r = 0; r < channels; ++r) std::memcpy(to + r * size + x, rows + r * half, sizeof(Eight));
    }
  }
}

/// Outputs of a panel of channels from lines [row of 4][column][channel of the panel].
QTOOL_INLINE inline void Block::put(const Run& run, std::int64_t channel, const float* lines) const {
  const std::int64_t size = w_.output_size(), width = w_.output[2];
  const std::int64_t y0 = run.row * outputs, x0 = run.column * outputs;
  const std::int64_t columns = std::min(run.count * outputs, width - x0);
  const std::int64_t channels = std::min(panel, p_.c.outputs - channel);
  float* image = p_.y + (image_ * p_.c.outputs + channel) * size + y0 * width + x0;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(outputs, w_.output[1] - y0); ++i) {
    for (std::int64_t lane = 0; lane < channels; lane += half) {
      put_line(lines + i * run_pitch * panel + lane, columns, image + i * width + lane * size,
               std::min(half, channels - lane));
    }
  }
}

void Block::transform_input(std::int64_t number, float* v, float* lines) const {
  with_lanes(p_.vectors, [&](auto type) QTOOL_INLINE {
    using V = typename decltype(type)::type;
    for (const Run& run : runs_) {
      lay(run, number * panel, lines);
      transform_columns<V>(run, lines);
      float* to = v + run.at * p_.depth + number * panel;
      for (std::int64_t t = 0; t < run.count; ++t, to += p_.depth) {
        transform_rows<V>(lines + t * outputs * panel, to, p_.point());
      }
    }
  });
}

void Block::multiply(std::int64_t group, const float* v, float* sums) const {
  const std::int64_t first = group * p_.group, panels = std::min(p_.group, p_.panels - first);
  const std::int64_t lanes = p_.tiles.lanes, vectors = panels * panel / lanes;
  ConvTile t;
  t.offsets = p_.offsets.data();
  t.depth = p_.c.inputs;
  t.kernel_row = p_.depth;
  t.y_row = plane * panel;
  for (std::int64_t i = 0; i < vectors; ++i) {
    const std::int64_t of = i * lanes / panel, lane = i * lanes % panel;
    t.x_at[i] = of * plane * p_.c.inputs * panel + lane;
    t.y_at[i] = of * p_.block * plane * panel + lane;
  }
  std::int64_t rows = p_.tiles.rows;
  while (p_.tiles.most_vectors[rows - 1] < vectors) --rows;
  for (std::int64_t point = 0; point < plane; ++point) {
    t.x = p_.kernel + (first * plane + point) * p_.c.inputs * panel;
    for (std::int64_t tile = 0, left = pieces(count_, rows); left > 0; --left) {
      const std::int64_t n = pieces(count_ - tile, left);
      t.kernel = v + point * p_.point() + tile * p_.depth;
      t.y = sums + (tile * plane + point) * panel;
      p_.tiles.compute(t, static_cast<int>(n), static_cast<int>(vectors));
      tile += n;
    }
  }
}

bool Block::transform_output(std::int64_t group, const float* sums, float* lines) const {
  const std::int64_t first = group * p_.group, panels = std::min(p_.group, p_.panels - first);
  bool finite = true;
  with_lanes(p_.vectors, [&](auto type) QTOOL_INLINE {
    using V = typename decltype(type)::type;
    V all{};  // the sum of all outputs is not finite when one of them is not; or else when they are very large
    for (std::int64_t i = 0; i < panels; ++i, sums += p_.block * plane * panel) {
      const std::int64_t channel = (first + i) * panel;
      float bias[panel] = {};
      if (p_.bias != nullptr) std::copy_n(p_.bias + channel, std::min(panel, p_.c.outputs - channel), bias);
      for (const Run& run : runs_) {
        for (std::int64_t lane = 0; lane < panel; lane += lanes<V>) {
          V start;
          load(start, bias + lane);
          for (std::int64_t t = 0; t < run.count; ++t) {
            transform_sums(sums + (run.at + t) * plane * panel + lane, start, lines + t * outputs * panel + lane, all);
          }
        }
        put(run, channel, lines);
      }
    }
    for (std::int64_t i = 0; i < lanes<V>; ++i) finite = finite && std::isfinite(all[i]);
  });
  return finite;
}

}  // namespace qtool::winograd

// SPDX-License-Identifier: Apache-2.0
// Memory order. Channels come in panels of sixteen, the innermost index everywhere:
//   transformed kernels  [output panel][point][input channel][16]
//   transformed input    [point][tile of the block][input channel, padded to panels]
//   sums                 [output panel of the group][tile of the block][point][16]
// so that the sums over input channels are products of matrices on the tiles of direct convolution, with tiles of the
// image in the place of output channels.
#include "calib/ops/conv_winograd.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "calib/ops/conv_direct.h"
#include "calib/ops/conv_tile.h"
#include "calib/ops/operand.h"
#include "calib/ops/scratch.h"
#include "calib/ops/slide.h"
#include "calib/ops/winograd_transforms.h"
#include "formats/base/heap.h"

namespace qtool {
namespace {

using winograd::outputs;
using winograd::points;

constexpr std::int64_t panel = slide_lanes, half = panel / 2;
constexpr std::int64_t plane = points * points;  // products of a tile
// Neighbouring tiles of one line of tiles that are transformed together, and the columns of the image that they see;
// columns are laid out in eights.
constexpr std::int64_t longest_run = 16, run_columns = longest_run * outputs + 2, run_pitch = run_columns + half;
// Floats of the transformed input and of the sums of a block of tiles, together: for the second-level cache.
constexpr std::int64_t block_floats = 128 * 1024;
// Tiles of a block: fewer make too little of a transformed kernel that comes from memory.
constexpr std::int64_t fewest_tiles = 16;
// Multiplications that are worth a thread's attention, and tasks that a convolution is cut into where it has them.
constexpr std::int64_t least_work = 1 << 17, wanted_tasks = 4;

// What transforms cost, in multiplications per channel and tile; measured.
constexpr std::int64_t transform_work = 600;
// Floats of a transformed kernel that lies in the caches from run to run, and of one that is worth its memory.
constexpr std::int64_t small_kernel = 1 << 20, most_kernel = 3 << 20;
constexpr std::int64_t most_channels = 1 << 16;

using Panel = LanesOf<float>::type;
typedef float Eight __attribute__((vector_size(half * sizeof(float))));

QTOOL_INLINE inline void load(Panel& v, const float* from) { std::memcpy(&v, from, sizeof v); }
QTOOL_INLINE inline void store(float* to, const Panel& v) { std::memcpy(to, &v, sizeof v); }

/// Eight rows of eight floats, `from_row` and `to_row` apart, become columns.
QTOOL_INLINE inline void transpose(const float* const (&from)[half], float* to, std::int64_t to_row) {
  Eight r[half], s[half];
  for (std::int64_t i = 0; i < half; ++i) std::memcpy(&r[i], from[i], sizeof r[i]);
  for (std::int64_t i = 0; i < half; i += 2) {
    s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (std::int64_t i = 0; i < half; i += 4) {
    for (std::int64_t k = 0; k < 2; ++k) {
      r[i + 2 * k] = __builtin_shufflevector(s[i + k], s[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      r[i + 2 * k + 1] = __builtin_shufflevector(s[i + k], s[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (std::int64_t i = 0; i < half / 2; ++i) {
    s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (std::int64_t i = 0; i < half; ++i) std::memcpy(to + i * to_row, &s[i], sizeof s[i]);
}

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

  Plan(const Convolution& convolution, Vectors with, const float* image, const float* weights, const float* biases,
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

  std::int64_t groups() const { return pieces(panels, group); }
  std::int64_t input_floats() const { return plane * block * depth; }
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
  Block(const Plan& plan, std::int64_t number) : p_(plan), w_(plan.c.window), image_(number / plan.blocks) {
    const std::int64_t first = number % plan.blocks * plan.block;
    count_ = std::min(plan.block, plan.down * plan.across - first);
    for (std::int64_t at = 0; at < count_; at += runs_.back().count) {
      const std::int64_t row = (first + at) / plan.across, column = (first + at) % plan.across;
      runs_.push_back({at, row, column, std::min({count_ - at, plan.across - column, longest_run})});
    }
  }
  std::int64_t image() const { return image_; }

  /// Panel `panel_number` of input channels; `lines` is working memory.
  void transform_input(std::int64_t panel_number, float* v, float* lines) const {
    with_vectors(p_.vectors, [&]() QTOOL_INLINE {
      for (const Run& run : runs_) {
        lay(run, panel_number * panel, lines);
        transform_columns(run, lines);
        float* to = v + run.at * p_.depth + panel_number * panel;
        for (std::int64_t t = 0; t < run.count; ++t, to += p_.depth) transform_rows(lines + t * outputs * panel, to);
      }
    });
  }

  /// The sums over input channels for group `group` of output channels.
  void multiply(std::int64_t group, const float* v, float* sums) const {
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
        t.kernel = v + (point * p_.block + tile) * p_.depth;
        t.y = sums + (tile * plane + point) * panel;
        p_.tiles.compute(t, static_cast<int>(n), static_cast<int>(vectors));
        tile += n;
      }
    }
  }

  /// The outputs of the group from its sums; false when some are not finite.
  bool transform_output(std::int64_t group, const float* sums, float* lines) const {
    const std::int64_t first = group * p_.group, panels = std::min(p_.group, p_.panels - first);
    bool finite = true;
    with_vectors(p_.vectors, [&]() QTOOL_INLINE {
      Panel all{};  // the sum of all outputs is not finite when one of them is not; or else when they are very large
      for (std::int64_t i = 0; i < panels; ++i, sums += p_.block * plane * panel) {
        const std::int64_t channel = (first + i) * panel;
        Panel bias{};
        if (p_.bias != nullptr) {
          std::memcpy(&bias, p_.bias + channel,
                      static_cast<std::size_t>(std::min(panel, p_.c.outputs - channel)) * sizeof(float));
        }
        for (const Run& run : runs_) {
          for (std::int64_t t = 0; t < run.count; ++t) {
            transform_sums(sums + (run.at + t) * plane * panel, bias, lines + t * outputs * panel, all);
          }
          put(run, channel, lines);
        }
      }
      for (std::int64_t i = 0; i < panel; ++i) finite = finite && std::isfinite(all[i]);
    });
    return finite;
  }

 private:
  /// The part of the image under the run: [row of 6][column][channel of the panel].
  QTOOL_INLINE void lay(const Run& run, std::int64_t channel, float* lines) const {
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

  /// Columns [begin, end) of eight channels.
  QTOOL_INLINE void lay_line(const float* const (&channels)[half], std::int64_t begin, std::int64_t end,
                             float* to) const {
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

  QTOOL_INLINE static void transform_columns(const Run& run, float* lines) {
    for (std::int64_t x = 0; x < run.count * outputs + 2; ++x, lines += panel) {
      Panel d[points], v[points];
      for (std::int64_t i = 0; i < points; ++i) load(d[i], lines + i * run_pitch * panel);
      winograd::transform_input(d, v);
      for (std::int64_t i = 0; i < points; ++i) store(lines + i * run_pitch * panel, v[i]);
    }
  }

  QTOOL_INLINE void transform_rows(const float* lines, float* to) const {
    const std::int64_t step = p_.block * p_.depth;
    for (std::int64_t i = 0; i < points; ++i, lines += run_pitch * panel) {
      Panel d[points], v[points];
      for (std::int64_t j = 0; j < points; ++j) load(d[j], lines + j * panel);
      winograd::transform_input(d, v);
      for (std::int64_t j = 0; j < points; ++j, to += step) store(to, v[j]);
    }
  }

  QTOOL_INLINE static void transform_sums(const float* sums, const Panel& bias, float* lines, Panel& all) {
    Panel rows[outputs][points];
    for (std::int64_t j = 0; j < points; ++j) {
      Panel m[points], y[outputs];
      for (std::int64_t i = 0; i < points; ++i) load(m[i], sums + (i * points + j) * panel);
      winograd::transform_output(m, y);
      for (std::int64_t i = 0; i < outputs; ++i) rows[i][j] = y[i];
    }
    for (std::int64_t i = 0; i < outputs; ++i) {
      Panel y[outputs];
      winograd::transform_output(rows[i], y);
      for (std::int64_t j = 0; j < outputs; ++j) {
        y[j] += bias;
        all += y[j];
        store(lines + (i * run_pitch + j) * panel, y[j]);
      }
    }
  }

  /// Outputs of a panel of channels from lines [row of 4][column][channel of the panel].
  QTOOL_INLINE void put(const Run& run, std::int64_t channel, const float* lines) const {
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

  QTOOL_INLINE void put_line(const float* lines, std::int64_t columns, float* to, std::int64_t channels) const {
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

  const Plan& p_;
  const Window& w_;
  std::int64_t image_, count_;
  std::vector<Run> runs_;
};

}  // namespace

bool convolves_by_winograd(const Convolution& c) {
  const Window& w = c.window;
  const Spatial square{1, winograd::taps, winograd::taps}, one{1, 1, 1};
  if (c.groups != 1 || w.axes != 2 || w.kernel != square || w.stride != one || w.dilation != one) return false;
  if (c.inputs > most_channels || c.outputs > most_channels || !convolves_directly(c)) return false;
  const std::int64_t tiles = pieces(w.output[1], outputs) * pieces(w.output[2], outputs);
  const std::int64_t depth = pieces(c.inputs, panel) * panel, height = pieces(c.outputs, panel) * panel;
  const std::int64_t kernel = plane * c.inputs * height;
  if (kernel > most_kernel) return false;
  // In multiplications; an image of few tiles waits for the kernel.
  const std::int64_t products = kernel * std::max<std::int64_t>(tiles, kernel > small_kernel ? 32 : 8);
  const std::int64_t transforms = tiles * (depth + height) * transform_work;
  return (products + transforms) * 10 < w.output_size() * c.depth() * c.outputs * 9;
}

Tensor winograd_kernel(const Convolution& c, const float* kernel) {
  constexpr std::int64_t taps = winograd::taps;
  using Wide = LanesOf<double>::type;
  const std::int64_t panels = pieces(c.outputs, panel);
  const Shape shape{panels, plane, c.inputs, panel};
  const std::size_t size = byte_size(DType::f32, element_count(shape));
  const std::shared_ptr<std::byte> memory = own_pages(size);
  auto* to = reinterpret_cast<float*>(memory.get());
  with_widest_vectors([&]() QTOOL_INLINE {
    for (std::int64_t first = 0; first < c.outputs; first += panel, to += plane * c.inputs * panel) {
      for (std::int64_t input = 0; input < c.inputs; ++input) {
        float rows[taps * taps][panel] = {};
        for (std::int64_t m = 0; m < std::min(panel, c.outputs - first); ++m) {
          const float* from = kernel + ((first + m) * c.inputs + input) * taps * taps;
          for (std::int64_t i = 0; i < taps * taps; ++i) rows[i][m] = from[i];
        }
        Wide g[taps][taps], columns[points][taps];
        for (std::int64_t i = 0; i < taps; ++i) {
          Wide u[points];
          for (std::int64_t j = 0; j < taps; ++j) {
            Panel v;
            load(v, rows[i * taps + j]);
            g[i][j] = __builtin_convertvector(v, Wide);
          }
          winograd::transform_kernel(g[i], u);
          for (std::int64_t j = 0; j < points; ++j) columns[j][i] = u[j];
        }
        for (std::int64_t j = 0; j < points; ++j) {
          Wide u[points];
          winograd::transform_kernel(columns[j], u);
          for (std::int64_t i = 0; i < points; ++i) {
            store(to + ((i * points + j) * c.inputs + input) * panel, __builtin_convertvector(u[i], Panel));
          }
        }
      }
    }
  });
  return Tensor(DType::f32, shape, Buffer::view({memory.get(), size}, memory));
}

void convolve_by_winograd(Threads& threads, const Convolution& c, const float* x, const float* kernel,
                          const Tensor& transformed, const float* bias, float* y, Vectors vectors) {
  const Plan plan(c, vectors, x, transformed.read<float>().data(), bias, y);
  const auto unusual = std::make_unique<std::atomic<bool>[]>(at(c.batch));  // images with results that are not finite
  const std::int64_t inputs = plan.depth / panel, line_floats = points * run_pitch * panel;
  const auto finish = [&](const Block& block, std::int64_t group, const float* v, Scratch& sums, float* lines) {
    block.multiply(group, v, sums.get(plan.sum_floats()));
    if (!block.transform_output(group, sums.get(plan.sum_floats()), lines)) unusual[at(block.image())] = true;
  };
  if (c.batch * plan.blocks >= wanted_tasks || plan.groups() == 1) {
    const std::int64_t grain = std::max<std::int64_t>(1, least_work / plan.work());
    threads.for_each(c.batch * plan.blocks, grain, [&](std::int64_t begin, std::int64_t end) {
      Scratch input, sums, lines;
      for (std::int64_t i = begin; i < end; ++i) {
        const Block block(plan, i);
        float* v = input.get(plan.input_floats());
        for (std::int64_t k = 0; k < inputs; ++k) block.transform_input(k, v, lines.get(line_floats));
        for (std::int64_t g = 0; g < plan.groups(); ++g) finish(block, g, v, sums, lines.get(line_floats));
      }
    });
  } else {  // few tiles: the channels are shared out
    Scratch input;
    for (std::int64_t i = 0; i < c.batch * plan.blocks; ++i) {
      const Block block(plan, i);
      float* v = input.get(plan.input_floats());
      threads.for_each(inputs, 1, [&](std::int64_t begin, std::int64_t) {
        Scratch lines;
        block.transform_input(begin, v, lines.get(line_floats));
      });
      threads.for_each(plan.groups(), 1, [&](std::int64_t begin, std::int64_t) {
        Scratch sums, lines;
        finish(block, begin, v, sums, lines.get(line_floats));
      });
    }
  }
  Convolution one = c;
  one.batch = 1;
  for (std::int64_t n = 0; n < c.batch; ++n) {
    if (!unusual[at(n)]) continue;
    convolve_directly(threads, one, x + n * c.inputs * c.window.input_size(), kernel, bias,
                      y + n * c.outputs * c.window.output_size(), vectors);
  }
}

}  // namespace qtool

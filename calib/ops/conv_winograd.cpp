// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/conv_winograd.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "calib/ops/conv_direct.h"
#include "calib/ops/operand.h"
#include "calib/ops/scratch.h"
#include "calib/ops/winograd_block.h"
#include "calib/ops/winograd_panels.h"

namespace qtool {
namespace {

using winograd::outputs;
using winograd::panel;
using winograd::plane;
using winograd::points;
using winograd::taps;

// Multiplications that are worth a thread's attention.
constexpr std::int64_t least_work = 1 << 17;
// What transforms cost, in multiplications per channel and tile; measured.
constexpr double transform_work = 600;
// Of the time that direct convolution is thought to take, so that it is left where both are alike.
constexpr double worth = 0.9;
// Floats of a transformed kernel that lies in the caches from run to run, and of one that is worth its memory; tiles
// that products with it take the time of at least, as they wait for the kernel.
constexpr std::int64_t small_kernel = 1 << 20, most_kernel = 3 << 20, least_small = 8, least_large = 32;
constexpr std::int64_t most_channels = 1 << 16;

std::int64_t padded(std::int64_t channels) { return pieces(channels, panel) * panel; }

std::int64_t kernel_floats(std::int64_t inputs, std::int64_t channels) { return plane * inputs * padded(channels); }

/// Whether `tiles` of `positions` outputs take less time by minimal filtering.
bool pays(std::int64_t inputs, std::int64_t channels, std::int64_t tiles, std::int64_t positions) {
  if (inputs > most_channels || channels > most_channels) return false;
  const std::int64_t kernel = kernel_floats(inputs, channels);
  if (kernel > most_kernel) return false;
  const auto wide = [](std::int64_t n) { return static_cast<double>(n); };
  const double products = wide(kernel) * wide(std::max(tiles, kernel > small_kernel ? least_large : least_small));
  const double transforms = wide(tiles) * wide(padded(inputs) + padded(channels)) * transform_work;
  return products + transforms < worth * wide(positions) * wide(inputs * channels * taps * taps);
}

}  // namespace

bool convolves_by_winograd(const Convolution& c) {
  const Window& w = c.window;
  const Spatial square{1, taps, taps}, one{1, 1, 1};
  if (c.groups != 1 || w.axes != 2 || w.kernel != square || w.stride != one || w.dilation != one) return false;
  const std::int64_t tiles = pieces(w.output[1], outputs) * pieces(w.output[2], outputs);
  return pays(c.inputs, c.outputs, tiles, w.output_size()) && convolves_directly(c);
}

std::int64_t winograd_floats(const Shape& kernel) {
  if (kernel.size() != 4 || kernel[2] != taps || kernel[3] != taps) return 0;
  constexpr std::int64_t many = 1 << 20;
  return pays(kernel[1], kernel[0], many, many * outputs * outputs) ? kernel_floats(kernel[1], kernel[0]) : 0;
}

void transform_kernel(const Convolution& c, const float* kernel, float* to) {
  using Wide = LanesOf<double>::type;
  constexpr std::int64_t size = taps * taps, eight = winograd::half;
  with_widest_vectors([&]() QTOOL_INLINE {
    for (std::int64_t first = 0; first < c.outputs; first += panel, to += plane * c.inputs * panel) {
      for (std::int64_t input = 0; input < c.inputs; ++input) {
        float rows[size][panel];  // by tap and output channel; the last channel stands in for those that are not there
        for (std::int64_t lane = 0; lane < panel; lane += eight) {
          const float* from[eight];
          for (std::int64_t m = 0; m < eight; ++m) {
            from[m] = kernel + (std::min(first + lane + m, c.outputs - 1) * c.inputs + input) * size;
            rows[size - 1][lane + m] = from[m][size - 1];
          }
          winograd::transpose(from, rows[0] + lane, panel);
        }
        Wide columns[points][taps];
        for (std::int64_t i = 0; i < taps; ++i) {
          Wide g[taps], u[points];
          for (std::int64_t j = 0; j < taps; ++j) {
            winograd::Panel v;
            winograd::load(v, rows[i * taps + j]);
            g[j] = __builtin_convertvector(v, Wide);
          }
          winograd::transform_kernel(g, u);
          for (std::int64_t j = 0; j < points; ++j) columns[j][i] = u[j];
        }
        for (std::int64_t j = 0; j < points; ++j) {
          Wide u[points];
          winograd::transform_kernel(columns[j], u);
          for (std::int64_t i = 0; i < points; ++i) {
            winograd::store(to + ((i * points + j) * c.inputs + input) * panel,
                            __builtin_convertvector(u[i], winograd::Panel));
          }
        }
      }
    }
  });
}

void convolve_by_winograd(Threads& threads, const Convolution& c, const float* x, const float* kernel,
                          const float* transformed, const float* bias, float* y, Vectors vectors) {
  const winograd::Plan plan(c, vectors, x, transformed, bias, y);
  const auto unusual = std::make_unique<std::atomic<bool>[]>(at(c.batch));  // images with results that are not finite
  const std::int64_t inputs = plan.depth / panel;
  const auto finish = [&](const winograd::Block& block, std::int64_t group, const float* v, Scratch& sums,
                          float* lines) {
    block.multiply(group, v, sums.get(plan.sum_floats()));
    if (!block.transform_output(group, sums.get(plan.sum_floats()), lines)) unusual[at(block.image())] = true;
  };
  if (c.batch * plan.blocks >= winograd::wanted_tasks || plan.groups() == 1) {
    const std::int64_t grain = std::max<std::int64_t>(1, least_work / plan.work());
    threads.for_each(c.batch * plan.blocks, grain, [&](std::int64_t begin, std::int64_t end) {
      Scratch input, sums, lines;
      for (std::int64_t i = begin; i < end; ++i) {
        const winograd::Block block(plan, i);
        float* v = input.get(plan.input_floats());
        for (std::int64_t k = 0; k < inputs; ++k) block.transform_input(k, v, lines.get(winograd::line_floats));
        for (std::int64_t g = 0; g < plan.groups(); ++g) finish(block, g, v, sums, lines.get(winograd::line_floats));
      }
    });
  } else {  // few tiles: the channels are shared out
    Scratch input;
    for (std::int64_t i = 0; i < c.batch * plan.blocks; ++i) {
      const winograd::Block block(plan, i);
      float* v = input.get(plan.input_floats());
      threads.for_each(inputs, 1, [&](std::int64_t begin, std::int64_t) {
        Scratch lines;
        block.transform_input(begin, v, lines.get(winograd::line_floats));
      });
      threads.for_each(plan.groups(), 1, [&](std::int64_t begin, std::int64_t) {
        Scratch sums, lines;
        finish(block, begin, v, sums, lines.get(winograd::line_floats));
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

// SPDX-License-Identifier: Apache-2.0
// DeformConv (Dai et al., 2017, arXiv:1703.06211; Zhu et al., 2018, arXiv:1811.11168): a convolution of images with two
// axes whose taps lie where `offset` says, each weighted by `mask`.
#include <cmath>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/conv.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

/// The image at (y, x) by bilinear interpolation, zero outside.
template <class T>
T sample(const T* plane, std::int64_t height, std::int64_t width, T y, T x) {
  if (!(y > T(-1) && y < static_cast<T>(height) && x > T(-1) && x < static_cast<T>(width))) return 0;
  const T top = std::floor(y), left = std::floor(x);
  const auto row = static_cast<std::int64_t>(top), column = static_cast<std::int64_t>(left);
  const auto pixel = [&](std::int64_t i, std::int64_t j) {
    return i < 0 || i >= height || j < 0 || j >= width ? T(0) : plane[i * width + j];
  };
  const T down = y - top, right = x - left;
  return (1 - down) * ((1 - right) * pixel(row, column) + right * pixel(row, column + 1)) +
         down * ((1 - right) * pixel(row + 1, column) + right * pixel(row + 1, column + 1));
}

template <class T>
struct Operands {
  const T *x, *offset, *mask;  // mask may be null
  std::int64_t offset_groups, channels;
};

/// Rows (channel, tap) of one image and group, columns: output positions.
template <class T>
void deformed_columns(const Convolution& k, const Operands<T>& in, std::int64_t n, std::int64_t group, T* columns) {
  const Window& w = k.window;
  const std::int64_t positions = w.output_size(), taps = w.kernel_size(), height = w.input[1], width = w.input[2];
  for (std::int64_t i = 0; i < k.inputs; ++i) {
    const std::int64_t channel = group * k.inputs + i;
    const std::int64_t owner = n * in.offset_groups + channel / (in.channels / in.offset_groups);
    const T* plane = in.x + (n * in.channels + channel) * height * width;
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const std::int64_t at_tap = owner * taps + tap;
      const T *dy = in.offset + 2 * at_tap * positions, *dx = dy + positions;
      T* to = columns + (i * taps + tap) * positions;
      for (std::int64_t p = 0; p < positions; ++p) {
        const std::int64_t y = p / w.output[2] * w.stride[1] - w.pad_begin[1] + tap / w.kernel[2] * w.dilation[1],
                           x = p % w.output[2] * w.stride[2] - w.pad_begin[2] + tap % w.kernel[2] * w.dilation[2];
        to[p] = sample(plane, height, width, static_cast<T>(y) + dy[p], static_cast<T>(x) + dx[p]);
        if (in.mask != nullptr) to[p] *= in.mask[at_tap * positions + p];
      }
    }
  }
}

template <class T>
void convolve_deformed(Threads& threads, const Convolution& k, const Operands<T>& in, const T* kernel, const T* bias,
                       T* y) {
  const std::int64_t positions = k.window.output_size(), depth = k.depth();
  threads.for_each(k.batch * k.groups, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> columns(qtool::at(depth * positions));
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t group = t % k.groups;
      deformed_columns(k, in, t / k.groups, group, columns.data());
      T* to = y + t * k.outputs * positions;
      for (std::int64_t m = 0; bias != nullptr && m < k.outputs; ++m) {
        std::fill_n(to + m * positions, positions, bias[group * k.outputs + m]);
      }
      gemm(threads, false, false, k.outputs, positions, depth, T(1), kernel + group * k.outputs * depth, depth,
           columns.data(), positions, bias == nullptr ? T(0) : T(1), to, positions);
    }
  });
}

void forward(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the image"), kernel = compute_float(c.in(1), "the kernel"),
               offset = compute_float(c.in(2), "the offsets");
  const Tensor bias = c.has(3) ? compute_float(c.in(3), "the bias") : Tensor(),
               mask = c.has(4) ? compute_float(c.in(4), "the mask") : Tensor();
  require(x.rank() == 4, "DeformConv of an image " + to_string(x.shape()) + " is not supported");
  const Convolution k = convolution_of(c.attrs(), x.shape(), kernel.shape());
  const Window& w = k.window;
  const std::int64_t groups = c.attrs().get("offset_group", std::int64_t{1}), taps = w.kernel_size();
  require(groups > 0 && x.shape()[1] % groups == 0 &&
              offset.shape() == Shape{k.batch, groups * taps * 2, w.output[1], w.output[2]} &&
              (!mask || mask.shape() == Shape{k.batch, groups * taps, w.output[1], w.output[2]}),
          "the offsets or the mask do not fit the window of DeformConv");
  require(!bias || bias.count() == k.groups * k.outputs, "the bias does not have one entry per output channel");
  Tensor y(x.dtype(), w.output_shape(k.batch, k.groups * k.outputs));
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Operands<T> in{x.read<T>().data(), offset.read<T>().data(), mask ? mask.read<T>().data() : nullptr, groups,
                         x.shape()[1]};
    convolve_deformed<T>(c.threads, k, in, kernel.read<T>().data(), bias ? bias.read<T>().data() : nullptr,
                         y.write<T>().data());
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void infer(InferContext& c) { infer_convolution(c, 0, 1, c.in(0).known_dtype, c.in(0).dtype); }

}  // namespace

constinit const OpDef DeformConv{"DeformConv", "", 19, infer, forward, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/conv.h"

#include <algorithm>
#include <vector>

#include "calib/linalg.h"
#include "calib/ops/conv_direct.h"
#include "calib/ops/conv_winograd.h"
#include "calib/ops/operand.h"
#include "calib/ops/slide.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

// A block of columns of the image (depth x positions) should stay in the second-level cache.
constexpr std::int64_t column_block = 96 * 1024;
// Tasks that one convolution should have at least, so that several threads find work; by shape alone.
constexpr std::int64_t wanted_tasks = 8;
// Below this many multiplications a convolution is not cut further.
constexpr std::int64_t small_work = 1 << 20;

template <class T>
void fill_bias(const T* bias, std::int64_t channels, std::int64_t width, T* y, std::int64_t ld) {
  for (std::int64_t m = 0; m < channels; ++m) {
    std::fill(y + m * ld, y + m * ld + width, bias == nullptr ? T(0) : bias[m]);
  }
}

/// One input channel per output channel: too little arithmetic for a matrix product.
template <class T>
void convolve_depthwise(Threads& threads, const Convolution& c, const T* x, const T* kernel, const T* bias, T* y) {
  const Window& w = c.window;
  const std::int64_t channels = c.groups * c.outputs;
  const std::int64_t work = std::max<std::int64_t>(1, w.output_size() * w.kernel_size());
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 17) / work);
  threads.for_each(c.batch * channels, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> scratch;
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t n = i / channels, m = i % channels;
        Slide<AddProduct, T>(w, x + (n * c.groups + m / c.outputs) * w.input_size(), kernel + m * w.kernel_size(),
                             bias == nullptr ? T(0) : bias[m], y + i * w.output_size())
            .run(scratch);
      }
    });
  });
}

/// The same convolution of an image that is one column of pixels, as of one line: elements lie alike, and kernels like
/// long lines.
Window along_lines(Window w) {
  const auto is_one = [&](std::size_t a) {
    return w.input[a] == 1 && w.kernel[a] == 1 && w.output[a] == 1 && w.pad_begin[a] == 0;
  };
  if (!is_one(2) || w.axes < 2) return w;
  for (Spatial* each : {&w.input, &w.output, &w.kernel, &w.stride, &w.dilation, &w.pad_begin, &w.pad_end}) {
    std::swap((*each)[1], (*each)[2]);
  }
  return w;
}

}  // namespace

Convolution convolution_of(const Attrs& attrs, const Shape& image, const Shape& kernel) {
  // Sentences are put together only where somebody reads them: small convolutions take microseconds.
  if (image.size() < 3 || kernel.size() != image.size()) {
    op::refuse("a convolution of an image " + to_string(image) + " with a kernel " + to_string(kernel) +
               " is not defined");
  }
  Convolution c;
  c.groups = attrs.get("group", std::int64_t{1});
  if (c.groups < 1 || kernel[0] % c.groups != 0 || image[1] != kernel[1] * c.groups) {
    op::refuse("a kernel of shape " + to_string(kernel) + " in " + std::to_string(c.groups) +
               " groups does not fit an image of shape " + to_string(image));
  }
  const Shape spatial(kernel.begin() + 2, kernel.end());
  const std::vector<std::int64_t> declared = attrs.get("kernel_shape", std::vector<std::int64_t>{});
  if (!declared.empty() && declared != spatial) {
    op::refuse("kernel_shape " + to_string(declared) + " does not agree with the kernel " + to_string(kernel));
  }
  c.window = window_of(attrs, image, spatial);
  c.batch = image[0];
  c.inputs = kernel[1];
  c.outputs = kernel[0] / c.groups;
  return c;
}

template <class T>
void convolve(Threads& threads, const Convolution& given, const T* x, const T* kernel, const T* bias, T* y) {
  if (given.batch == 0 || given.outputs == 0 || given.window.output_size() == 0) return;
  Convolution c = given;
  c.window = along_lines(c.window);
  if constexpr (std::is_same_v<T, float>) {
    if (convolves_directly(c)) return convolve_directly(threads, c, x, kernel, bias, y);
  }
  if (c.inputs == 1 && c.groups > 1) return convolve_depthwise(threads, c, x, kernel, bias, y);
  convolve_by_columns(threads, c, x, kernel, bias, y);
}

template void convolve(Threads&, const Convolution&, const float*, const float*, const float*, float*);
template void convolve(Threads&, const Convolution&, const double*, const double*, const double*, double*);

template <class T>
void convolve_by_columns(Threads& threads, const Convolution& c, const T* x, const T* kernel, const T* bias, T* y) {
  const Window& w = c.window;
  const std::int64_t positions = w.output_size(), depth = c.depth();
  // Cut into (image, group, block of output channels, block of positions).
  const std::int64_t images = c.batch * c.groups;
  std::int64_t width = std::clamp<std::int64_t>(column_block / std::max<std::int64_t>(depth, 1), 64, 4096);
  width = std::min((width + 31) / 32 * 32, positions);
  std::int64_t height = c.outputs;
  const auto count = [](std::int64_t n, std::int64_t each) { return (n + each - 1) / each; };
  if (c.outputs * positions * depth * images > small_work) {
    const std::int64_t missing = count(wanted_tasks, images * count(positions, width));
    if (missing > 1 && positions / missing >= 64) {
      width = (count(positions, count(positions, width) * missing) + 15) / 16 * 16;
    } else if (missing > 1 && c.outputs >= 64) {
      height = std::max<std::int64_t>(32, (count(c.outputs, missing) + 15) / 16 * 16);
    }
  }
  const std::int64_t across = count(positions, width), down = count(c.outputs, height);
  threads.for_each(images * down * across, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> columns;
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t image = t / (down * across), group = image % c.groups;
      const std::int64_t m0 = t / across % down * height, m1 = std::min(m0 + height, c.outputs);
      const std::int64_t p0 = t % across * width, p1 = std::min(p0 + width, positions);
      const T* from = x + image * c.inputs * w.input_size();
      T* to = y + (image * c.outputs + m0) * positions + p0;
      const std::int64_t first_channel = group * c.outputs + m0;
      fill_bias(bias == nullptr ? nullptr : bias + first_channel, m1 - m0, p1 - p0, to, positions);
      const T* b = from + p0;
      std::int64_t ldb = positions;
      if (!w.is_pointwise()) {
        ldb = p1 - p0;
        columns.resize(at(depth * ldb));
        image_to_columns(w, from, c.inputs, p0, p1, columns.data(), ldb);
        b = columns.data();
      }
      gemm(threads, false, false, m1 - m0, p1 - p0, depth, T(1), kernel + first_channel * depth, depth, b, ldb, T(1),
           to, positions);
    }
  });
}

template void convolve_by_columns(Threads&, const Convolution&, const float*, const float*, const float*, float*);
template void convolve_by_columns(Threads&, const Convolution&, const double*, const double*, const double*, double*);

void infer_convolution(InferContext& c, std::size_t image, std::size_t kernel, bool known_dtype, DType dtype) {
  Type t;
  t.dtype = dtype;
  t.known_dtype = known_dtype;
  const Type &x = c.in(image), &k = c.in(kernel);
  if (x.known_rank && k.known_rank && x.shape.size() >= 3 && k.shape.size() == x.shape.size()) {
    t.known_rank = true;
    t.shape = {x.shape[0], k.shape[0]};
    const Shape spatial = infer_window(c.attrs(), x.shape, Shape(k.shape.begin() + 2, k.shape.end()), false, false);
    t.shape.insert(t.shape.end(), spatial.begin(), spatial.end());
  }
  c.out(0, t);
}

Tensor bias_gradient(const Tensor& gradient, const Shape& bias) {
  Tensor db(DType::f32, bias);
  const auto to = db.write<float>();
  const std::int64_t batch = gradient.shape()[0], channels = gradient.shape()[1];
  const std::int64_t positions = op::extent(gradient.shape(), 2, gradient.rank());
  const float* d = gradient.read<float>().data();
  for (std::int64_t m = 0; m < channels; ++m) {
    double sum = 0;
    for (std::int64_t n = 0; n < batch; ++n) {
      const float* row = d + (n * channels + m) * positions;
      for (std::int64_t p = 0; p < positions; ++p) sum += static_cast<double>(row[p]);
    }
    to[at(m)] = static_cast<float>(sum);
  }
  return db;
}

namespace op {
namespace {

void infer(InferContext& c) { infer_convolution(c, 0, 1, c.in(0).known_dtype, c.in(0).dtype); }

void forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image"), kernel = compute_float(ctx.in(1), "the kernel");
  const Convolution c = convolution_of(ctx.attrs(), x.shape(), kernel.shape());
  const Tensor bias = ctx.has(2) ? compute_float(ctx.in(2), "the bias") : Tensor();
  require(!bias || bias.count() == c.groups * c.outputs, "the bias does not have one entry per output channel");
  Tensor y = Tensor::unset(x.dtype(), c.window.output_shape(c.batch, c.groups * c.outputs));
  if (ctx.kept(1) != nullptr && x.dtype() == DType::f32 && convolves_by_winograd(c)) {
    const float* weights = kernel.read<float>().data();
    const float* transformed = ctx.kept(1)->get([&](float* to) { transform_kernel(c, weights, to); });
    convolve_by_winograd(ctx.threads, c, x.read<float>().data(), weights, transformed,
                         bias ? bias.read<float>().data() : nullptr, y.write<float>().data());
    return ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
  }
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    convolve<T>(ctx.threads, c, x.read<T>().data(), kernel.read<T>().data(), bias ? bias.read<T>().data() : nullptr,
                y.write<T>().data());
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

/// dX = col2im(W^T dY), one image and group at a time: they do not share elements.
void backward_image(BackwardContext& ctx, const Convolution& c) {
  const Window& w = c.window;
  const std::int64_t positions = w.output_size(), depth = c.depth();
  Tensor dx(DType::f32, ctx.in(0).shape());
  float* to = dx.write<float>().data();
  const float *kernel = ctx.in(1).read<float>().data(), *d = ctx.grad(0).read<float>().data();
  ctx.threads.for_each(c.batch * c.groups, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> columns(at(depth * positions));
    for (std::int64_t i = begin; i < end; ++i) {
      gemm(ctx.threads, true, false, depth, positions, c.outputs, 1.0F, kernel + i % c.groups * c.outputs * depth,
           depth, d + i * c.outputs * positions, positions, 0.0F, columns.data(), positions);
      add_columns_to_image(w, columns.data(), c.inputs, positions, to + i * c.inputs * w.input_size());
    }
  });
  ctx.input_gradients[0] = std::move(dx);
}

/// dW = dY columns^T, summed over the images in order; groups are independent.
void backward_kernel(BackwardContext& ctx, const Convolution& c) {
  const Window& w = c.window;
  const std::int64_t positions = w.output_size(), depth = c.depth();
  Tensor dw(DType::f32, ctx.in(1).shape());
  float* to = dw.write<float>().data();
  const float *x = ctx.in(0).read<float>().data(), *d = ctx.grad(0).read<float>().data();
  ctx.threads.for_each(c.groups, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> columns(at(depth * positions));
    for (std::int64_t g = begin; g < end; ++g) {
      for (std::int64_t n = 0; n < c.batch; ++n) {
        const std::int64_t i = n * c.groups + g;
        image_to_columns(w, x + i * c.inputs * w.input_size(), c.inputs, 0, positions, columns.data(), positions);
        gemm(ctx.threads, false, true, c.outputs, depth, positions, 1.0F, d + i * c.outputs * positions, positions,
             columns.data(), positions, n == 0 ? 0.0F : 1.0F, to + g * c.outputs * depth, depth);
      }
    }
  });
  ctx.input_gradients[1] = std::move(dw);
}

void backward(BackwardContext& ctx) {
  if (ctx.grad(0).empty()) return;
  const Convolution c = convolution_of(ctx.attrs(), ctx.in(0).shape(), ctx.in(1).shape());
  if (ctx.wants(0)) backward_image(ctx, c);
  if (ctx.wants(1)) backward_kernel(ctx, c);
  if (ctx.wants(2)) ctx.input_gradients[2] = bias_gradient(ctx.grad(0), ctx.in(2).shape());
}

}  // namespace

/// Floats of the transformed kernel, which depends on the kernel alone.
std::int64_t prepares(const Node& node, std::size_t i, const Tensor& kernel) {
  if (i != 1 || !is_float(kernel.dtype()) || node.attrs.get("group", std::int64_t{1}) != 1) return 0;
  const std::vector<std::int64_t> strides = node.attrs.get("strides", std::vector<std::int64_t>{});
  const bool dense = std::all_of(strides.begin(), strides.end(), [](std::int64_t s) { return s == 1; });
  return dense ? winograd_floats(kernel.shape()) : 0;
}

constinit const OpDef Conv{"Conv", "", 1, infer, forward, backward, prepares};

}  // namespace op
}  // namespace qtool

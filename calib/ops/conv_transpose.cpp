// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/conv.h"
#include "calib/ops/operand.h"
#include "calib/ops/window.h"

namespace qtool::op {
namespace {

// Floats of the intermediate columns that one task may hold.
constexpr std::int64_t column_block = 1 << 20;

/// x [N, C, spatial...], kernel [C, M/groups, spatial...], y [N, M, larger spatial...].
struct Problem {
  Window window;  // of the convolution that this one is the adjoint of
  std::int64_t batch, groups, inputs, outputs;
};

Problem problem_of(const Attrs& attrs, const Shape& image, const Shape& kernel) {
  require(image.size() >= 3 && kernel.size() == image.size(),
          "a transposed convolution of " + to_string(image) + " with " + to_string(kernel) + " is not defined");
  const std::int64_t groups = attrs.get("group", std::int64_t{1});
  require(groups >= 1 && image[1] == kernel[0] && image[1] % groups == 0,
          "a kernel of shape " + to_string(kernel) + " in " + std::to_string(groups) +
              " groups does not fit an image of shape " + to_string(image));
  return {transposed_window_of(attrs, image, Shape(kernel.begin() + 2, kernel.end())), image[0], groups,
          image[1] / groups, kernel[1]};
}

/// Column matrices of a few output channels at a time are made by a product and added into the image.
template <class T>
void unconvolve(Threads& threads, const Problem& p, const T* x, const T* kernel, const T* bias, T* y) {
  const Window& w = p.window;
  const std::int64_t positions = w.output_size(), taps = w.kernel_size(), size = w.input_size();
  if (p.batch == 0 || p.outputs == 0 || size == 0) return;
  const std::int64_t block = std::clamp<std::int64_t>(column_block / std::max<std::int64_t>(1, taps * positions), 1,
                                                      std::max<std::int64_t>(1, (p.outputs + 3) / 4));
  const std::int64_t blocks = (p.outputs + block - 1) / block;
  threads.for_each(p.batch * p.groups * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> columns;
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t image = t / blocks, group = image % p.groups;
      const std::int64_t m0 = t % blocks * block, m1 = std::min(m0 + block, p.outputs), rows = (m1 - m0) * taps;
      columns.resize(at(rows * positions));
      gemm(threads, true, false, rows, positions, p.inputs, T(1), kernel + (group * p.inputs * p.outputs + m0) * taps,
           p.outputs * taps, x + image * p.inputs * positions, positions, T(0), columns.data(), positions);
      T* to = y + (image * p.outputs + m0) * size;
      for (std::int64_t m = m0; m < m1; ++m) {
        std::fill(to + (m - m0) * size, to + (m - m0 + 1) * size, bias == nullptr ? T(0) : bias[group * p.outputs + m]);
      }
      add_columns_to_image(w, columns.data(), m1 - m0, positions, to);
    }
  });
}

void infer(InferContext& c) {
  Type t;
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  const Type &x = c.in(0), &k = c.in(1);
  if (x.known_rank && k.known_rank && x.shape.size() >= 3 && k.shape.size() == x.shape.size()) {
    t.known_rank = true;
    const std::int64_t groups = c.attrs().get("group", std::int64_t{1});
    t.shape = {x.shape[0], k.shape[1] < 0 ? -1 : k.shape[1] * groups};
    const Shape spatial = infer_window(c.attrs(), x.shape, Shape(k.shape.begin() + 2, k.shape.end()), false, true);
    t.shape.insert(t.shape.end(), spatial.begin(), spatial.end());
  }
  c.out(0, t);
}

void forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image"), kernel = compute_float(ctx.in(1), "the kernel");
  const Problem p = problem_of(ctx.attrs(), x.shape(), kernel.shape());
  const Tensor bias = ctx.has(2) ? compute_float(ctx.in(2), "the bias") : Tensor();
  require(!bias || bias.count() == p.groups * p.outputs, "the bias does not have one entry per output channel");
  Shape shape{p.batch, p.groups * p.outputs};
  for (std::size_t i = 3 - p.window.axes; i < 3; ++i) shape.push_back(p.window.input[i]);
  Tensor y(x.dtype(), shape);
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    unconvolve<T>(ctx.threads, p, x.read<T>().data(), kernel.read<T>().data(), bias ? bias.read<T>().data() : nullptr,
                  y.write<T>().data());
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

/// The adjoint of the adjoint: dX = K im2col(dY), dK = x im2col(dY)^T summed over the images in order.
void backward(BackwardContext& ctx) {
  if (ctx.grad(0).empty()) return;
  const Problem p = problem_of(ctx.attrs(), ctx.in(0).shape(), ctx.in(1).shape());
  const std::int64_t positions = p.window.output_size(), depth = p.outputs * p.window.kernel_size();
  const bool image = ctx.wants(0), kernel = ctx.wants(1);
  Tensor dx(DType::f32, image ? ctx.in(0).shape() : Shape{0}), dk(DType::f32, kernel ? ctx.in(1).shape() : Shape{0});
  float *to_x = dx.write<float>().data(), *to_k = dk.write<float>().data();
  const float *x = ctx.in(0).read<float>().data(), *k = ctx.in(1).read<float>().data();
  const float* d = ctx.grad(0).read<float>().data();
  ctx.threads.for_each(image || kernel ? p.groups : 0, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> columns(at(depth * positions));
    for (std::int64_t g = begin; g < end; ++g) {
      for (std::int64_t n = 0; n < p.batch; ++n) {
        const std::int64_t i = n * p.groups + g;
        image_to_columns(p.window, d + i * p.outputs * p.window.input_size(), p.outputs, 0, positions, columns.data(),
                         positions);
        if (image) {
          gemm(ctx.threads, false, false, p.inputs, positions, depth, 1.0F, k + g * p.inputs * depth, depth,
               columns.data(), positions, 0.0F, to_x + i * p.inputs * positions, positions);
        }
        if (kernel) {
          gemm(ctx.threads, false, true, p.inputs, depth, positions, 1.0F, x + i * p.inputs * positions, positions,
               columns.data(), positions, n == 0 ? 0.0F : 1.0F, to_k + g * p.inputs * depth, depth);
        }
      }
    }
  });
  if (image) ctx.input_gradients[0] = std::move(dx);
  if (kernel) ctx.input_gradients[1] = std::move(dk);
  if (ctx.wants(2)) ctx.input_gradients[2] = bias_gradient(ctx.grad(0), ctx.in(2).shape());
}

}  // namespace

constinit const OpDef ConvTranspose{"ConvTranspose", "", 1, infer, forward, backward};

}  // namespace qtool::op

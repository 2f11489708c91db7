// SPDX-License-Identifier: Apache-2.0
// Softmax, LogSoftmax and Hardmax. Before opset 13 the axes from `axis` on were one row; since then one axis is.
#include <algorithm>
#include <cmath>
#include <limits>

#include "calib/ops/rows.h"
#include "calib/ops/softmax.h"

namespace qtool::op {
namespace {

/// x as [outer, n, inner]: a row is what shares outer and inner.
struct Layout {
  std::int64_t outer = 1, n = 1, inner = 1;
};

template <class Context>
Layout layout_of(const Context& ctx, const Shape& shape) {
  const auto rank = static_cast<std::int64_t>(shape.size());
  if (ctx.opset < 13) {
    std::int64_t axis = ctx.attrs().get("axis", std::int64_t{1});
    if (axis < 0) axis += rank;
    if (axis < 0 || axis > rank) refuse("axis " + std::to_string(axis) + " is out of range");
    return {extent(shape, 0, axis), extent(shape, axis, rank), 1};
  }
  if (rank == 0) return {};
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), rank);
  return {extent(shape, 0, axis), shape[static_cast<std::size_t>(axis)], extent(shape, axis + 1, rank)};
}

struct SoftmaxOf {
  template <class T>
  static void f(const T* x, T* y, std::int64_t n, std::int64_t step) {
    softmax_row(x, y, n, step);
  }
  /// dx = y (g - sum(g y))
  static void b(const float* y, const float* g, float* dx, std::int64_t n, std::int64_t step) {
    double dot = 0;
    for (std::int64_t i = 0; i < n * step; i += step) dot += static_cast<double>(g[i]) * static_cast<double>(y[i]);
    for (std::int64_t i = 0; i < n * step; i += step) dx[i] = y[i] * (g[i] - static_cast<float>(dot));
  }
};

struct LogSoftmaxOf {
  template <class T>
  static void f(const T* x, T* y, std::int64_t n, std::int64_t step) {
    T top = -std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < n; ++i) top = std::max(top, x[i * step]);
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(std::exp(x[i * step] - top));
    const T shift = top + static_cast<T>(std::log(sum));
    for (std::int64_t i = 0; i < n; ++i) y[i * step] = x[i * step] - shift;
  }
  /// dx = g - softmax(x) sum(g)
  static void b(const float* y, const float* g, float* dx, std::int64_t n, std::int64_t step) {
    double sum = 0;
    for (std::int64_t i = 0; i < n * step; i += step) sum += static_cast<double>(g[i]);
    for (std::int64_t i = 0; i < n * step; i += step) dx[i] = g[i] - std::exp(y[i]) * static_cast<float>(sum);
  }
};

struct HardmaxOf {
  template <class T>
  static void f(const T* x, T* y, std::int64_t n, std::int64_t step) {
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < n; ++i) best = x[i * step] > x[best * step] ? i : best;
    for (std::int64_t i = 0; i < n; ++i) y[i * step] = i == best ? T(1) : T(0);
  }
};

template <class K>
void forward_rows(const OpContext& ctx) {
  const DType dtype = ctx.in(0).dtype();
  const Tensor x = widened(ctx.in(0));
  const Layout s = layout_of(ctx, x.shape());
  Tensor y = Tensor::unset(x.dtype(), x.shape());
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* in = x.read<T>().data();
    T* out = y.write<T>().data();
    for_rows(ctx.threads, s.outer * s.inner, s.n, [&](std::int64_t row) {
      const std::int64_t start = row / s.inner * s.n * s.inner + row % s.inner;
      K::f(in + start, out + start, s.n, s.inner);
    });
  });
  ctx.out(0, narrowed(std::move(y), dtype));
}

template <class K>
void backward_rows(BackwardContext& ctx) {
  const Layout s = layout_of(ctx, ctx.in(0).shape());
  Tensor result(DType::f32, ctx.in(0).shape());
  const float *y = ctx.outputs[0].read<float>().data(), *g = ctx.grad(0).read<float>().data();
  float* out = result.write<float>().data();
  for_rows(ctx.threads, s.outer * s.inner, s.n, [&](std::int64_t row) {
    const std::int64_t start = row / s.inner * s.n * s.inner + row % s.inner;
    K::b(y + start, g + start, out + start, s.n, s.inner);
  });
  ctx.input_gradients[0] = std::move(result);
}

}  // namespace

constinit const OpDef Softmax{"Softmax", "", 7, infer_same, forward_rows<SoftmaxOf>, backward_rows<SoftmaxOf>};
constinit const OpDef LogSoftmax{
    "LogSoftmax", "", 1, infer_same, forward_rows<LogSoftmaxOf>, backward_rows<LogSoftmaxOf>};
constinit const OpDef Hardmax{"Hardmax", "", 7, infer_same, forward_rows<HardmaxOf>, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// Normalization without learned parameters: LpNormalization, MeanVarianceNormalization, LRN.
#include <algorithm>
#include <cmath>

#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

void forward_lp(const OpContext& ctx) {
  const Tensor x = widened(ctx.in(0));
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), x.rank());
  const std::int64_t p = ctx.attrs().get("p", std::int64_t{2});
  if (p != 1 && p != 2) refuse("p should be 1 or 2");
  const std::int64_t n = x.shape()[at(axis)], inner = extent(x.shape(), axis + 1, x.rank());
  Tensor y(x.dtype(), x.shape());
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* in = x.read<T>().data();
    T* out = y.write<T>().data();
    for_rows(ctx.threads, extent(x.shape(), 0, axis) * inner, n, [&](std::int64_t row) {
      const std::int64_t start = row / inner * n * inner + row % inner;
      double sum = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const double v = static_cast<double>(in[start + i * inner]);
        sum += p == 1 ? std::abs(v) : v * v;
      }
      const double norm = p == 1 ? sum : std::sqrt(sum);
      for (std::int64_t i = 0; i < n; ++i) {
        out[start + i * inner] = norm == 0 ? T(0) : static_cast<T>(static_cast<double>(in[start + i * inner]) / norm);
      }
    });
  });
  ctx.out(0, narrowed(std::move(y), ctx.in(0).dtype()));
}

/// (x - mean) / (deviation + 1e-9) over axes; opset 1 named them by across_channels.
void forward_mean_variance(const OpContext& ctx) {
  const Tensor x = to_f32(ctx.in(0));
  std::vector<std::int64_t> axes{0, 2, 3};
  if (ctx.opset < 9) {
    axes = {0, 2, 3};
    if (ctx.attrs().get("across_channels", std::int64_t{0}) != 0) axes = {0, 1, 2, 3};
  }
  axes = axes_in(ctx.attrs().get("axes", axes), x.rank());
  Shape kept = x.shape();
  for (const std::int64_t axis : axes) kept[at(axis)] = 1;
  const auto groups = at(element_count(kept));
  const Walk<1> w = make_walk<1>(x.shape(), {broadcast_strides(kept, x.shape())});
  const auto in = x.read<float>();
  std::vector<double> sum(groups, 0), square(groups, 0);
  const double n = groups == 0 ? 1 : static_cast<double>(x.count()) / static_cast<double>(groups);
  const auto each = [&](auto&& f) {
    for_runs(w, 0, w.count, [&](std::int64_t position, const auto& starts, const auto& steps, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) f(at(position + i), at(starts[0] + i * steps[0]));
    });
  };
  each([&](std::size_t i, std::size_t g) { sum[g] += static_cast<double>(in[i]); });
  each([&](std::size_t i, std::size_t g) {
    const double d = static_cast<double>(in[i]) - sum[g] / n;
    square[g] += d * d;
  });
  Tensor y(DType::f32, x.shape());
  auto out = y.write<float>();
  each([&](std::size_t i, std::size_t g) {
    out[i] = static_cast<float>((static_cast<double>(in[i]) - sum[g] / n) / (std::sqrt(square[g] / n) + 1e-9));
  });
  ctx.out(0, ctx.in(0).dtype() == DType::f32 ? std::move(y) : from_f32(y, ctx.in(0).dtype()));
}

/// x / (bias + alpha / size * sum of squares over `size` channels around)^beta, Krizhevsky et al., 2012.
void forward_lrn(const OpContext& ctx) {
  const Tensor x = to_f32(ctx.in(0));
  if (x.rank() < 2) refuse("the input should have a batch and a channel axis");
  const double alpha = static_cast<double>(ctx.attrs().get("alpha", 1e-4f));
  const double beta = static_cast<double>(ctx.attrs().get("beta", 0.75f));
  const double bias = static_cast<double>(ctx.attrs().get("bias", 1.0f));
  const std::int64_t size = ctx.attrs().get("size", std::int64_t{0});
  if (size < 1) refuse("size should be positive");
  const std::int64_t channels = x.shape()[1], positions = extent(x.shape(), 2, x.rank());
  const std::int64_t before = (size - 1) / 2, after = size - 1 - before;
  Tensor y(DType::f32, x.shape());
  const float* in = x.read<float>().data();
  float* out = y.write<float>().data();
  for_rows(ctx.threads, x.shape()[0] * channels, positions * std::min(size, channels), [&](std::int64_t row) {
    const std::int64_t c = row % channels, image = row - c;
    const std::int64_t first = std::max<std::int64_t>(0, c - before);
    const std::int64_t last = after >= channels ? channels - 1 : std::min(channels - 1, c + after);
    for (std::int64_t i = 0; i < positions; ++i) {
      double sum = 0;
      for (std::int64_t k = first; k <= last; ++k) {
        const double v = static_cast<double>(in[(image + k) * positions + i]);
        sum += v * v;
      }
      const double v = static_cast<double>(in[row * positions + i]);
      out[row * positions + i] = static_cast<float>(v / std::pow(bias + alpha / static_cast<double>(size) * sum, beta));
    }
  });
  ctx.out(0, ctx.in(0).dtype() == DType::f32 ? std::move(y) : from_f32(y, ctx.in(0).dtype()));
}

}  // namespace

constinit const OpDef LpNormalization{"LpNormalization", "", 7, infer_same, forward_lp, nullptr};
constinit const OpDef MeanVarianceNormalization{"MeanVarianceNormalization", "",     1, infer_same,
                                                forward_mean_variance,       nullptr};
constinit const OpDef LRN{"LRN", "", 7, infer_same, forward_lrn, nullptr};

}  // namespace qtool::op

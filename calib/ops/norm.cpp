// SPDX-License-Identifier: Apache-2.0
// Normalization with learned scale and bias. Statistics are taken in double, over rows: the last axes
// (LayerNormalization, RMSNormalization), the positions of a channel (InstanceNormalization) or of a group of channels
// (GroupNormalization); BatchNormalization brings its own.
#include <cmath>

#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

/// Rows of n elements; element i of a row takes scale[row % cycle * step + i / inner].
struct Layout {
  std::int64_t rows = 1, n = 1, cycle = 1, step = 0, inner = 1;
  bool centred = true;  // false: the mean is taken as zero (RMS)
  float epsilon = 1e-5f;
  std::int64_t entries() const { return (cycle - 1) * step + n / std::max<std::int64_t>(inner, 1); }
};

struct Moments {
  double mean = 0, inverse = 1;  // 1 / sqrt(variance + epsilon)
};

template <class T>
Moments moments_of(const T* x, const Layout& s) {
  Moments m;
  const auto n = static_cast<double>(s.n);
  if (s.centred) m.mean = row_sum(x, s.n) / n;
  const double mean = m.mean;
  const double variance = row_sum(x, s.n, [mean](double v) { return (v - mean) * (v - mean); }) / n;
  m.inverse = 1 / std::sqrt(variance + static_cast<double>(s.epsilon));
  return m;
}

/// Normalizes rows; `bias` may be empty. `means`, `inverses`: null, or one entry per row.
template <class T>
void normalize(Threads& threads, const Layout& s, const T* x, const T* scale, const T* bias, T* y, float* means,
               float* inverses) {
  for_rows(threads, s.rows, s.n, [&](std::int64_t row) {
    const T* in = x + row * s.n;
    T* out = y + row * s.n;
    const Moments m = moments_of(in, s);
    const T mean = static_cast<T>(m.mean), inverse = static_cast<T>(m.inverse);
    if (means != nullptr) means[row] = static_cast<float>(m.mean);
    if (inverses != nullptr) inverses[row] = static_cast<float>(m.inverse);
    const std::int64_t base = row % s.cycle * s.step;
    if (s.inner == 1) {
      with_widest_vectors([&]() QTOOL_INLINE {
        const T *const factor = scale + base, *const shift = bias == nullptr ? nullptr : bias + base;
        for (std::int64_t i = 0; i < s.n; ++i) {
          const T v = (in[i] - mean) * inverse * factor[i];
          out[i] = shift != nullptr ? v + shift[i] : v;
        }
      });
      return;
    }
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t k = base, i = 0; i < s.n; ++k) {
        const T factor = scale[k], shift = bias != nullptr ? bias[k] : T(0);
        for (const std::int64_t end = std::min(i + s.inner, s.n); i < end; ++i) {
          const T v = (in[i] - mean) * inverse * factor;
          out[i] = bias != nullptr ? v + shift : v;
        }
      }
    });
  });
}

/// scale or bias of a layer norm, repeated over the normalized axes.
Tensor full_parameter(const OpContext& ctx, std::size_t i, const Shape& normalized) {
  Tensor t = widened(ctx.in(i));
  if (t.shape() == normalized || t.empty()) return t;
  if (broadcast(t.shape(), normalized) != normalized) {
    refuse("a parameter of shape " + to_string(t.shape()) + " does not fit " + to_string(normalized));
  }
  return gather_strided(ctx.threads, t, normalized, broadcast_strides(t.shape(), normalized));
}

template <class Context>
Layout last_axes(const Context& ctx, const Shape& shape, bool centred) {
  const auto rank = static_cast<std::int64_t>(shape.size());
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), rank);
  Layout s;
  s.rows = extent(shape, 0, axis);
  s.n = extent(shape, axis, rank);
  s.centred = centred;
  s.epsilon = ctx.attrs().get("epsilon", 1e-5f);
  return s;
}

template <bool Centred>
void forward_last_axes(const OpContext& ctx) {
  const DType dtype = ctx.in(0).dtype();
  const Tensor x = widened(ctx.in(0));
  const Layout s = last_axes(ctx, x.shape(), Centred);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), x.rank());
  const Shape normalized(x.shape().begin() + axis, x.shape().end());
  const Tensor scale = full_parameter(ctx, 1, normalized), bias = full_parameter(ctx, 2, normalized);
  if (scale.empty()) refuse("the scale is missing");
  if (scale.dtype() != x.dtype()) refuse("scale and input have different types");
  Tensor y = Tensor::unset(x.dtype(), x.shape());
  Shape row_shape = x.shape();
  for (std::size_t d = at(axis); d < row_shape.size(); ++d) row_shape[d] = 1;
  Tensor means(DType::f32, row_shape), inverses(DType::f32, row_shape);
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    normalize<T>(ctx.threads, s, x.read<T>().data(), scale.read<T>().data(),
                 bias.empty() ? nullptr : bias.read<T>().data(), y.write<T>().data(), means.write<float>().data(),
                 inverses.write<float>().data());
  });
  ctx.out(0, narrowed(std::move(y), dtype));
  if (!Centred) return;
  // stash_type says the type of the statistics; 1 is float32.
  ctx.out(1, dtype == DType::f64 ? from_f32(means, dtype) : std::move(means));
  ctx.out(2, dtype == DType::f64 ? from_f32(inverses, dtype) : std::move(inverses));
}

/// Gradients of normalize(): with h = (x - mean) inverse and k = g scale,
/// dx = inverse (k - mean(k) - h mean(k h)), without mean(k) where rows are not centred; dscale = sum g h; dbias = sum
/// g.
void backward_rows(BackwardContext& ctx, const Layout& s, const Tensor& scale) {
  const Tensor& x = ctx.in(0);
  const float *in = x.read<float>().data(), *g = ctx.grad(0).read<float>().data(), *w = scale.read<float>().data();
  Tensor dx(DType::f32, x.shape());
  float* out = dx.write<float>().data();
  std::vector<double> dscale(static_cast<std::size_t>(scale.count()), 0), dbias(dscale.size(), 0);
  for (std::int64_t row = 0; row < s.rows; ++row) {
    const float *xr = in + row * s.n, *gr = g + row * s.n;
    const Moments m = moments_of(xr, s);
    const std::int64_t base = row % s.cycle * s.step;
    double sum = 0, dot = 0;
    for (std::int64_t i = 0; i < s.n; ++i) {
      const std::size_t k = at(base + i / s.inner);
      const double h = (static_cast<double>(xr[i]) - m.mean) * m.inverse, gi = static_cast<double>(gr[i]);
      const double gs = gi * static_cast<double>(w[k]);
      sum += gs;
      dot += gs * h;
      dscale[k] += gi * h;
      dbias[k] += gi;
    }
    const double n = static_cast<double>(s.n), mean_sum = s.centred ? sum / n : 0, mean_dot = dot / n;
    for (std::int64_t i = 0; i < s.n; ++i) {
      const double h = (static_cast<double>(xr[i]) - m.mean) * m.inverse;
      const double gs = static_cast<double>(gr[i]) * static_cast<double>(w[base + i / s.inner]);
      out[row * s.n + i] = static_cast<float>(m.inverse * (gs - mean_sum - h * mean_dot));
    }
  }
  const auto as_tensor = [&](const std::vector<double>& sums, const Shape& shape) {
    Tensor t(DType::f32, scale.shape());
    std::transform(sums.begin(), sums.end(), t.write<float>().begin(), [](double v) { return static_cast<float>(v); });
    return sum_to(t, shape);
  };
  ctx.input_gradients[0] = std::move(dx);
  if (ctx.wants(1)) ctx.input_gradients[1] = as_tensor(dscale, ctx.in(1).shape());
  if (ctx.wants(2)) ctx.input_gradients[2] = as_tensor(dbias, ctx.in(2).shape());
}

template <bool Centred>
void backward_last_axes(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), x.rank());
  const Shape normalized(x.shape().begin() + axis, x.shape().end());
  const Tensor scale =
      gather_strided(ctx.threads, ctx.in(1), normalized, broadcast_strides(ctx.in(1).shape(), normalized));
  if (ctx.grad(0).empty()) return;
  backward_rows(ctx, last_axes(ctx, x.shape(), Centred), scale);
}

void infer_last_axes(InferContext& ctx) {
  ctx.out(0, ctx.in(0));
  Type rows = ctx.in(0);
  rows.dtype = DType::f32;
  if (rows.known_rank) {
    const std::int64_t axis =
        axis_in(ctx.attrs().get("axis", std::int64_t{-1}), static_cast<std::int64_t>(rows.shape.size()));
    rows.symbols.resize(rows.shape.size());
    for (std::size_t d = at(axis); d < rows.shape.size(); ++d) {
      rows.shape[d] = 1;
      rows.symbols[d].clear();
    }
  }
  ctx.out(1, rows);
  ctx.out(2, rows);
}

/// Rows of an [N, C, ...] tensor: one per channel, or per group of channels.
template <class Context>
Layout channel_rows(const Context& ctx, const Shape& shape, std::int64_t groups, bool scale_per_channel) {
  const auto rank = static_cast<std::int64_t>(shape.size());
  if (rank < 2) refuse("the input should have a batch and a channel axis");
  const std::int64_t channels = shape[1], positions = extent(shape, 2, rank);
  if (groups <= 0 || channels % groups != 0) {
    refuse(std::to_string(channels) + " channels do not make " + std::to_string(groups) + " groups");
  }
  Layout s;
  s.rows = shape[0] * groups;
  s.n = channels / groups * positions;
  s.cycle = groups;
  s.step = scale_per_channel ? channels / groups : 1;
  s.inner = std::max<std::int64_t>(scale_per_channel ? positions : s.n, 1);
  s.epsilon = ctx.attrs().get("epsilon", 1e-5f);
  return s;
}

void forward_channel_rows(const OpContext& ctx, const Layout& s) {
  const DType dtype = ctx.in(0).dtype();
  const Tensor x = widened(ctx.in(0)), scale = widened(ctx.in(1)), bias = widened(ctx.in(2));
  if (scale.dtype() != x.dtype() || bias.dtype() != x.dtype()) refuse("scale, bias and input have different types");
  if (s.n > 0 && (scale.count() != s.entries() || bias.count() != s.entries())) {
    refuse("scale and bias should have " + std::to_string(s.entries()) + " entries");
  }
  Tensor y = Tensor::unset(x.dtype(), x.shape());
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    normalize<T>(ctx.threads, s, x.read<T>().data(), scale.read<T>().data(), bias.read<T>().data(), y.write<T>().data(),
                 nullptr, nullptr);
  });
  ctx.out(0, narrowed(std::move(y), dtype));
}

template <class Context>
Layout instance_rows(const Context& ctx, const Shape& shape) {
  return channel_rows(ctx, shape, shape.size() < 2 ? 1 : shape[1], true);
}
void forward_instance(const OpContext& ctx) { forward_channel_rows(ctx, instance_rows(ctx, ctx.in(0).shape())); }
void backward_instance(BackwardContext& ctx) { backward_rows(ctx, instance_rows(ctx, ctx.in(0).shape()), ctx.in(1)); }

/// Opset 18 had one scale per group, 21 has one per channel.
template <class Context>
Layout group_rows(const Context& ctx, const Shape& shape) {
  return channel_rows(ctx, shape, ctx.attrs().get("num_groups", std::int64_t{0}), ctx.opset >= 21);
}
void forward_group(const OpContext& ctx) { forward_channel_rows(ctx, group_rows(ctx, ctx.in(0).shape())); }
void backward_group(BackwardContext& ctx) { backward_rows(ctx, group_rows(ctx, ctx.in(0).shape()), ctx.in(1)); }

/// y = x a + b per channel, with a = scale / sqrt(variance + epsilon) and b = bias - mean a.
struct Affine {
  std::vector<float> a, b, inverse;
};

template <class Context>
Affine batch_affine(const Context& ctx) {
  const auto parameter = [&](std::size_t i) { return to_f32(ctx.in(i)); };
  const Tensor scale = parameter(1), bias = parameter(2), mean = parameter(3), variance = parameter(4);
  const Shape& shape = ctx.in(0).shape();
  if (shape.size() < 2) refuse("the input should have a batch and a channel axis");
  for (const Tensor& t : {scale, bias, mean, variance}) {
    if (t.count() != shape[1])
      refuse("parameters should have one entry for each of the " + std::to_string(shape[1]) + " channels");
  }
  const float epsilon = ctx.attrs().get("epsilon", 1e-5f);
  Affine result;
  const auto s = scale.read<float>(), b = bias.read<float>(), m = mean.read<float>(), v = variance.read<float>();
  for (std::size_t c = 0; c < s.size(); ++c) {
    result.inverse.push_back(1 / std::sqrt(v[c] + epsilon));
    result.a.push_back(s[c] * result.inverse[c]);
    result.b.push_back(b[c] - m[c] * result.a[c]);
  }
  return result;
}

void forward_batch(const OpContext& ctx) {
  if (ctx.attrs().get("training_mode", std::int64_t{0}) != 0)
    refuse("BatchNormalization in training mode cannot be quantized");
  if (ctx.attrs().get("spatial", std::int64_t{1}) == 0) refuse("BatchNormalization with spatial=0 is not supported");
  const DType dtype = ctx.in(0).dtype();
  const Tensor x = to_f32(ctx.in(0));
  const Affine affine = batch_affine(ctx);
  const std::int64_t channels = x.shape()[1], positions = extent(x.shape(), 2, x.rank());
  Tensor y = Tensor::unset(DType::f32, x.shape());
  const float* in = x.read<float>().data();
  float* out = y.write<float>().data();
  for_rows(ctx.threads, x.shape()[0] * channels, positions, [&](std::int64_t row) {
    const float a = affine.a[at(row % channels)], b = affine.b[at(row % channels)];
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t i = row * positions; i < (row + 1) * positions; ++i) out[i] = in[i] * a + b;
    });
  });
  ctx.out(0, dtype == DType::f32 ? std::move(y) : from_f32(y, dtype));
}

void backward_batch(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Affine affine = batch_affine(ctx);
  const std::int64_t channels = x.shape()[1], positions = extent(x.shape(), 2, x.rank());
  const float *in = x.read<float>().data(), *g = ctx.grad(0).read<float>().data();
  const auto scale = ctx.in(1).read<float>(), mean = ctx.in(3).read<float>();
  Tensor dx(DType::f32, x.shape());
  float* out = dx.write<float>().data();
  std::vector<double> sum(at(channels), 0), dot(at(channels), 0);  // of g, and of g (x - mean)
  for (std::int64_t row = 0; row < x.shape()[0] * channels; ++row) {
    const std::size_t c = at(row % channels);
    for (std::int64_t i = row * positions; i < (row + 1) * positions; ++i) {
      out[i] = g[i] * affine.a[c];
      sum[c] += static_cast<double>(g[i]);
      dot[c] += static_cast<double>(g[i]) * static_cast<double>(in[i] - mean[c]);
    }
  }
  ctx.input_gradients[0] = std::move(dx);
  const auto fill = [&](std::size_t i, auto&& f) {
    if (!ctx.wants(i)) return;
    Tensor t(DType::f32, ctx.in(i).shape());
    auto v = t.write<float>();
    for (std::size_t c = 0; c < v.size(); ++c) v[c] = static_cast<float>(f(c));
    ctx.input_gradients[i] = std::move(t);
  };
  fill(1, [&](std::size_t c) { return dot[c] * static_cast<double>(affine.inverse[c]); });
  fill(2, [&](std::size_t c) { return sum[c]; });
  fill(3, [&](std::size_t c) { return -sum[c] * static_cast<double>(affine.a[c]); });
  fill(4, [&](std::size_t c) {
    const auto inverse = static_cast<double>(affine.inverse[c]);
    return -0.5 * dot[c] * static_cast<double>(scale[c]) * inverse * inverse * inverse;
  });
}

}  // namespace

// Standard since 17; ONNX Runtime runs it under every older operator set, and its exporters rely on that.
constinit const OpDef LayerNormalization{"LayerNormalization",    "", 1, infer_last_axes, forward_last_axes<true>,
                                         backward_last_axes<true>};
constinit const OpDef RMSNormalization{"RMSNormalization",       "", 23, infer_same, forward_last_axes<false>,
                                       backward_last_axes<false>};
constinit const OpDef InstanceNormalization{"InstanceNormalization", "", 7, infer_same, forward_instance,
                                            backward_instance};
constinit const OpDef GroupNormalization{"GroupNormalization", "", 18, infer_same, forward_group, backward_group};
constinit const OpDef BatchNormalization{"BatchNormalization", "", 7, infer_same, forward_batch, backward_batch};

}  // namespace qtool::op

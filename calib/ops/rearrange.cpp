// SPDX-License-Identifier: Apache-2.0
// Elements in another order or cut out: DepthToSpace and back, ReverseSequence, Trilu, running sums, and the
// caffe2-era Crop and ImageScaler.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

/// x seen under `split`, its axes moved as `perm` says, then under `to`.
Tensor moved(Threads& threads, const Tensor& x, const Shape& split, const std::vector<std::int64_t>& perm,
             const Shape& to) {
  const auto dense = strides_of(split);
  Shape shape;
  std::vector<std::int64_t> strides;
  for (const std::int64_t p : perm) {
    shape.push_back(split[at(p)]);
    strides.push_back(dense[at(p)]);
  }
  return gather_strided(threads, x, shape, strides).reshaped(to);
}

template <class Context>
std::int64_t block_of(const Context& ctx, const Shape& shape) {
  const std::int64_t b = ctx.attrs().get("blocksize", std::int64_t{0});
  if (shape.size() != 4) refuse("the input should be [N, C, H, W]");
  if (b < 1 || b > (std::int64_t{1} << 20)) refuse("blocksize " + std::to_string(b) + " is not possible");
  return b;
}

/// How blocks lie in the channels: block first (DCR) or channel first (CRD).
bool channel_first(const Attrs& attrs) { return attrs.get("mode", "DCR") == "CRD"; }

Tensor depth_to_space(Threads& threads, const Tensor& x, std::int64_t b, bool crd) {
  const Shape& s = x.shape();
  const std::int64_t c = s[1] / (b * b);
  if (s[1] % (b * b) != 0) refuse("the channels do not divide into blocks");
  const Shape to{s[0], c, s[2] * b, s[3] * b};
  if (crd) return moved(threads, x, {s[0], c, b, b, s[2], s[3]}, {0, 1, 4, 2, 5, 3}, to);
  return moved(threads, x, {s[0], b, b, c, s[2], s[3]}, {0, 3, 4, 1, 5, 2}, to);
}

Tensor space_to_depth(Threads& threads, const Tensor& x, std::int64_t b, bool crd) {
  const Shape& s = x.shape();
  if (s[2] % b != 0 || s[3] % b != 0) refuse("height and width do not divide into blocks");
  const Shape split{s[0], s[1], s[2] / b, b, s[3] / b, b}, to{s[0], s[1] * b * b, s[2] / b, s[3] / b};
  return moved(threads, x, split,
               crd ? std::vector<std::int64_t>{0, 1, 3, 5, 2, 4} : std::vector<std::int64_t>{0, 3, 5, 1, 2, 4}, to);
}

void forward_depth_to_space(const OpContext& ctx) {
  ctx.out(0, depth_to_space(ctx.threads, ctx.in(0), block_of(ctx, ctx.in(0).shape()), channel_first(ctx.attrs())));
}
void backward_depth_to_space(BackwardContext& ctx) {
  ctx.input_gradients[0] =
      space_to_depth(ctx.threads, ctx.grad(0), block_of(ctx, ctx.in(0).shape()), channel_first(ctx.attrs()));
}
void forward_space_to_depth(const OpContext& ctx) {
  ctx.out(0, space_to_depth(ctx.threads, ctx.in(0), block_of(ctx, ctx.in(0).shape()), channel_first(ctx.attrs())));
}
void backward_space_to_depth(BackwardContext& ctx) {
  ctx.input_gradients[0] =
      depth_to_space(ctx.threads, ctx.grad(0), block_of(ctx, ctx.in(0).shape()), channel_first(ctx.attrs()));
}

template <bool ToSpace>
void infer_blocks(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.resize(std::min<std::size_t>(t.symbols.size(), 1));
  if (t.known_rank) {
    const std::int64_t b = block_of(ctx, t.shape);
    const auto times = [](std::int64_t d, std::int64_t n) { return d < 0 ? -1 : d * n; };
    const auto over = [](std::int64_t d, std::int64_t n) { return d < 0 ? -1 : d / n; };
    t.shape[1] = ToSpace ? over(t.shape[1], b * b) : times(t.shape[1], b * b);
    for (std::size_t d = 2; d < 4; ++d) t.shape[d] = ToSpace ? times(t.shape[d], b) : over(t.shape[d], b);
  }
  ctx.out(0, std::move(t));
}

void forward_reverse_sequence(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t batch_axis = ctx.attrs().get("batch_axis", std::int64_t{1});
  const std::int64_t time_axis = ctx.attrs().get("time_axis", std::int64_t{0});
  if (x.rank() < 2 || std::min(batch_axis, time_axis) != 0 || std::max(batch_axis, time_axis) != 1) {
    refuse("batch and time should be the first two axes");
  }
  const auto lengths = to_int64s(ctx.in(1));
  const std::int64_t batch = x.shape()[at(batch_axis)], time = x.shape()[at(time_axis)];
  if (static_cast<std::int64_t>(lengths.size()) != batch) refuse("there should be one length per sequence");
  Tensor y(x.dtype(), x.shape());
  const std::size_t row = batch * time == 0 ? 0 : x.size_bytes() / at(batch * time);
  std::byte* out = y.write_bytes().data();
  for (std::int64_t b = 0; b < batch; ++b) {
    if (lengths[at(b)] < 0 || lengths[at(b)] > time) refuse("a sequence is longer than the input");
    for (std::int64_t t = 0; t < time; ++t) {
      const std::int64_t from = t < lengths[at(b)] ? lengths[at(b)] - 1 - t : t;
      const auto place = [&](std::int64_t step) {
        return at(batch_axis == 0 ? b * time + step : step * batch + b) * row;
      };
      std::memcpy(out + place(t), x.bytes().data() + place(from), row);
    }
  }
  ctx.out(0, std::move(y));
}

/// Sets what lies on the far side of diagonal k to zero.
Tensor triangle(const Tensor& x, bool upper, std::int64_t k) {
  if (x.rank() < 2) refuse("the input should have at least two axes");
  Tensor y = x;
  const std::int64_t rows = x.shape()[at(x.rank() - 2)], columns = x.shape()[at(x.rank() - 1)];
  k = std::clamp(k, -rows - 1, columns + 1);
  if (x.count() == 0) return y;
  const std::size_t width = x.size_bytes() / at(x.count());
  std::byte* out = y.write_bytes().data();
  for (std::int64_t row = 0; row < x.count() / columns; ++row) {
    const std::int64_t edge = row % rows + k;  // the diagonal's column
    const std::int64_t begin = upper ? 0 : std::clamp<std::int64_t>(edge + 1, 0, columns);
    const std::int64_t end = upper ? std::clamp<std::int64_t>(edge, 0, columns) : columns;
    if (end > begin) std::memset(out + at(row * columns + begin) * width, 0, at(end - begin) * width);
  }
  return y;
}

std::int64_t diagonal(const Tensor& k) { return k.empty() ? 0 : one_integer(k, "k"); }

void forward_trilu(const OpContext& ctx) {
  ctx.out(0, triangle(ctx.in(0), ctx.attrs().get("upper", std::int64_t{1}) != 0, diagonal(ctx.in(1))));
}
void backward_trilu(BackwardContext& ctx) {
  ctx.input_gradients[0] = triangle(ctx.grad(0), ctx.attrs().get("upper", std::int64_t{1}) != 0, diagonal(ctx.in(1)));
}

/// Running sums (or products) along an axis.
template <bool Product>
Tensor running(const Tensor& x, std::int64_t axis, bool exclusive, bool reverse) {
  Tensor y(x.dtype(), x.shape());
  const std::int64_t outer = extent(x.shape(), 0, axis), n = x.shape()[at(axis)],
                     inner = extent(x.shape(), axis + 1, x.rank());
  for_number_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    using S = std::conditional_t<std::is_integral_v<T>, std::uint64_t, double>;
    const auto in = x.read<T>();
    auto out = y.write<T>();
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t r = 0; r < inner; ++r) {
        S sum = Product ? S(1) : S(0);
        for (std::int64_t step = 0; step < n; ++step) {
          const std::int64_t i = (o * n + (reverse ? n - 1 - step : step)) * inner + r;
          const S v = static_cast<S>(in[at(i)]), next = Product ? sum * v : sum + v;
          out[at(i)] = static_cast<T>(exclusive ? sum : next);
          sum = next;
        }
      }
    }
  });
  return y;
}

template <bool Product>
void forward_running(const OpContext& ctx) {
  const Tensor x = widened(ctx.in(0));
  const std::int64_t axis = axis_in(one_integer(ctx.in(1), "the axis"), x.rank());
  ctx.out(0, narrowed(running<Product>(x, axis, ctx.attrs().get("exclusive", std::int64_t{0}) != 0,
                                       ctx.attrs().get("reverse", std::int64_t{0}) != 0),
                      ctx.in(0).dtype()));
}

void backward_cum_sum(BackwardContext& ctx) {  // the sum of what comes after, in place of what comes before
  const std::int64_t axis = axis_in(one_integer(ctx.in(1), "the axis"), ctx.in(0).rank());
  ctx.input_gradients[0] = running<false>(ctx.grad(0), axis, ctx.attrs().get("exclusive", std::int64_t{0}) != 0,
                                          ctx.attrs().get("reverse", std::int64_t{0}) == 0);
}

/// border: left, top, right, bottom to cut off; or `scale`: height and width to keep from left and top on.
void forward_crop(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const auto border = ctx.attrs().get("border", std::vector<std::int64_t>{});
  const auto scale = ctx.attrs().get("scale", std::vector<std::int64_t>{});
  if (x.rank() != 4 || border.size() != 4) refuse("Crop takes [N, C, H, W] and a border of four numbers");
  const std::int64_t height = x.shape()[2], width = x.shape()[3], left = border[0], top = border[1];
  std::int64_t right = width - border[2], bottom = height - border[3];
  if (scale.size() == 2) {
    bottom = top + scale[0];
    right = left + scale[1];
  }
  if (left < 0 || top < 0 || right > width || bottom > height || right < left || bottom < top) {
    refuse("the border is larger than the picture");
  }
  const auto strides = strides_of(x.shape());
  ctx.out(0, gather_strided(ctx.threads, x, {x.shape()[0], x.shape()[1], bottom - top, right - left}, strides,
                            top * strides[2] + left));
}

void infer_crop(InferContext& ctx) {
  Type t = ctx.in(0);
  const auto border = ctx.attrs().get("border", std::vector<std::int64_t>{});
  const auto scale = ctx.attrs().get("scale", std::vector<std::int64_t>{});
  t.symbols.resize(std::min<std::size_t>(t.symbols.size(), 2));
  if (t.known_rank && t.shape.size() == 4 && border.size() == 4) {
    if (scale.size() == 2) {
      t.shape[2] = scale[0];
      t.shape[3] = scale[1];
    } else {
      if (t.shape[2] >= 0) t.shape[2] -= border[1] + border[3];
      if (t.shape[3] >= 0) t.shape[3] -= border[0] + border[2];
    }
  }
  ctx.out(0, std::move(t));
}

/// x scale + bias[channel]
void forward_image_scaler(const OpContext& ctx) {
  const Tensor x = to_f32(ctx.in(0));
  const auto bias = ctx.attrs().get("bias", std::vector<float>{});
  const float scale = ctx.attrs().get("scale", 1.0f);
  if (x.rank() != 4 || (x.shape()[1] != static_cast<std::int64_t>(bias.size()) && !bias.empty())) {
    refuse("ImageScaler takes [N, C, H, W] and one bias per channel");
  }
  Tensor y(DType::f32, x.shape());
  const std::int64_t positions = x.shape()[2] * x.shape()[3], channels = x.shape()[1];
  const float* in = x.read<float>().data();
  float* out = y.write<float>().data();
  for (std::int64_t i = 0; i < x.count(); ++i) {
    out[i] = in[i] * scale + (bias.empty() ? 0.0f : bias[at(i / positions % channels)]);
  }
  ctx.out(0, narrowed(std::move(y), ctx.in(0).dtype()));
}

void backward_image_scaler(BackwardContext& ctx) {
  Tensor g = ctx.grad(0);
  const float scale = ctx.attrs().get("scale", 1.0f);
  for (float& v : g.write<float>()) v *= scale;
  ctx.input_gradients[0] = std::move(g);
}

/// Gaussian elimination with row exchanges, in double.
void forward_det(const OpContext& ctx) {
  const Tensor x = to_f32(ctx.in(0));
  if (x.rank() < 2 || x.shape()[at(x.rank() - 1)] != x.shape()[at(x.rank() - 2)]) refuse("Det takes square matrices");
  const std::int64_t n = x.shape().back();
  Tensor y(DType::f32, Shape(x.shape().begin(), x.shape().end() - 2));
  const float* in = x.read<float>().data();
  for (float& result : y.write<float>()) {
    std::vector<double> a(in, in + n * n);
    in += n * n;
    double det = 1;
    for (std::int64_t k = 0; k < n; ++k) {
      std::int64_t pivot = k;
      for (std::int64_t i = k + 1; i < n; ++i) {
        if (std::abs(a[at(i * n + k)]) > std::abs(a[at(pivot * n + k)])) pivot = i;
      }
      if (pivot != k) {
        std::swap_ranges(a.begin() + k * n, a.begin() + (k + 1) * n, a.begin() + pivot * n);
        det = -det;
      }
      det *= a[at(k * n + k)];
      if (det == 0) break;
      for (std::int64_t i = k + 1; i < n; ++i) {
        const double f = a[at(i * n + k)] / a[at(k * n + k)];
        for (std::int64_t j = k; j < n; ++j) a[at(i * n + j)] -= f * a[at(k * n + j)];
      }
    }
    result = static_cast<float>(det);
  }
  ctx.out(0, ctx.in(0).dtype() == DType::f32 ? std::move(y) : from_f32(y, ctx.in(0).dtype()));
}

void infer_det(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.clear();
  if (t.known_rank && t.shape.size() >= 2) t.shape.resize(t.shape.size() - 2);
  ctx.out(0, std::move(t));
}

}  // namespace

constinit const OpDef DepthToSpace{"DepthToSpace",         "", 7, infer_blocks<true>, forward_depth_to_space,
                                   backward_depth_to_space};
constinit const OpDef SpaceToDepth{"SpaceToDepth",         "", 7, infer_blocks<false>, forward_space_to_depth,
                                   backward_space_to_depth};
constinit const OpDef ReverseSequence{"ReverseSequence", "", 10, infer_same, forward_reverse_sequence, nullptr};
constinit const OpDef Trilu{"Trilu", "", 14, infer_same, forward_trilu, backward_trilu};
constinit const OpDef CumSum{"CumSum", "", 11, infer_same, forward_running<false>, backward_cum_sum};
constinit const OpDef CumProd{"CumProd", "", 26, infer_same, forward_running<true>, nullptr};
constinit const OpDef Crop{"Crop", "", 7, infer_crop, forward_crop, nullptr};
constinit const OpDef ImageScaler{"ImageScaler", "", 7, infer_same, forward_image_scaler, backward_image_scaler};
constinit const OpDef Det{"Det", "", 11, infer_det, forward_det, nullptr};

}  // namespace qtool::op

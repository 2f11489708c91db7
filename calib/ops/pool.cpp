// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/pool.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "calib/ops/operand.h"
#include "calib/ops/slide.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

std::int64_t planes_per_task(const Window& w) {
  return std::max<std::int64_t>(1, (1 << 16) / std::max<std::int64_t>(1, w.output_size() * w.kernel_size()));
}

/// Calls tap(to, from, first, last, step) for every run of output positions of one row that sees one tap of the kernel
/// inside the image: output `to[i]` meets input `from[i * step]` for first <= i < last.
template <class T, class Out, class F>
void for_each_tap(const Window& w, const T* x, Out* y, F&& tap) {
  for (std::int64_t z = 0; z < w.output[0]; ++z) {
    for (std::int64_t row = 0; row < w.output[1]; ++row) {
      Out* to = y + (z * w.output[1] + row) * w.output[2];
      for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
        const std::int64_t iz = z * w.stride[0] + kd * w.dilation[0] - w.pad_begin[0];
        if (iz < 0 || iz >= w.input[0]) continue;
        for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
          const std::int64_t iy = row * w.stride[1] + kh * w.dilation[1] - w.pad_begin[1];
          if (iy < 0 || iy >= w.input[1]) continue;
          const T* line = x + (iz * w.input[1] + iy) * w.input[2];
          for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw) {
            std::int64_t first = 0, last = 0;
            w.valid(2, kw, first, last);
            tap(to, line + kw * w.dilation[2] - w.pad_begin[2], first, last, w.stride[2]);
          }
        }
      }
    }
  }
}

template <class T>
constexpr T lowest() {
  if constexpr (std::numeric_limits<T>::has_infinity) {
    return -std::numeric_limits<T>::infinity();
  } else {
    return std::numeric_limits<T>::lowest();
  }
}

/// Takes sixteen elements from `from` on, `stride` apart, into `held`; some more are read between and behind them.
template <class T, class Lanes>
QTOOL_INLINE inline void take_strided(const T* from, std::int64_t stride, Lanes& held) {
  Lanes value{}, next;
  if (stride > 2) {
    for (std::int64_t l = 0; l < slide_lanes; ++l) value[l] = from[l * stride];
  } else {
    std::memcpy(&value, from, sizeof value);
  }
  if (stride == 2) {
    std::memcpy(&next, from + slide_lanes, sizeof next);
    value = __builtin_shufflevector(value, next, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  }
  TakeLarger::take(held, value, T(0));
}

/// Largest elements of the windows of a plane without depth: first down the lines, all of them, then along them.
template <class T>
QTOOL_INLINE inline void max_plane(const Window& w, const T* x, T* y, std::vector<T>& scratch) {
  using Lanes = typename LanesOf<T>::type;
  const std::int64_t stride = w.stride[2], width = w.output[2], columns = w.input[2];
  // Blocks of sixteen outputs may read further than the last window reaches.
  const std::int64_t pitch =
      std::max((width + slide_lanes) * stride + (w.kernel[2] - 1) * w.dilation[2], w.pad_begin[2] + columns) +
      slide_lanes;
  scratch.resize(at(w.output[1] * pitch));
  for (std::int64_t row = 0; row < w.output[1]; ++row) {
    T* const line = scratch.data() + row * pitch;
    T* const inside = line + w.pad_begin[2];
    const std::int64_t top = row * w.stride[1] - w.pad_begin[1];
    const auto larger = [&](std::int64_t i, auto&& held) QTOOL_INLINE {
      for (std::int64_t k = 0, from = top; k < w.kernel[1]; ++k, from += w.dilation[1]) {
        if (from < 0 || from >= w.input[1]) continue;
        std::remove_reference_t<decltype(held)> value;
        std::memcpy(&value, x + from * columns + i, sizeof value);
        TakeLarger::take(held, value, T(0));
      }
      std::memcpy(inside + i, &held, sizeof held);
    };
    std::int64_t i = 0;
    for (; i + slide_lanes <= columns; i += slide_lanes) larger(i, Lanes{} + lowest<T>());
    if (i < columns && columns >= slide_lanes) {
      larger(columns - slide_lanes, Lanes{} + lowest<T>());  // some once more
    } else {
      for (; i < columns; ++i) larger(i, lowest<T>());
    }
    std::fill(line, inside, lowest<T>());
    std::fill(inside + columns, line + pitch, lowest<T>());
  }
  const auto along = [&](auto step) QTOOL_INLINE {
    for (std::int64_t row = 0; row < w.output[1]; ++row, y += width) {
      for (std::int64_t i = 0; i < width; i += slide_lanes) {
        const T* from = scratch.data() + row * pitch + i * step;
        Lanes held = Lanes{} + lowest<T>();
        for (std::int64_t k = 0; k < w.kernel[2]; ++k) take_strided(from + k * w.dilation[2], step, held);
        if (i + slide_lanes <= width) {
          std::memcpy(y + i, &held, sizeof held);
        } else {
          for (std::int64_t l = 0; l < width - i; ++l) y[i + l] = held[l];
        }
      }
    }
  };
  if (stride == 1) {
    along(std::integral_constant<std::int64_t, 1>());
  } else if (stride == 2) {
    along(std::integral_constant<std::int64_t, 2>());
  } else {
    along(stride);
  }
}

/// Position inside the plane of each window's first largest element; -1 for a window that sees padding only.
template <class T>
void argmax_plane(const Window& w, const T* x, std::int64_t* positions) {
  std::fill(positions, positions + w.output_size(), std::int64_t{-1});
  for_each_tap(w, x, positions,
               [x](std::int64_t* to, const T* from, std::int64_t first, std::int64_t last, std::int64_t step) {
                 for (std::int64_t i = first; i < last; ++i) {
                   const T* candidate = from + i * step;
                   if (to[i] < 0 || *candidate > x[to[i]]) to[i] = candidate - x;
                 }
               });
}

std::int64_t column_major(const Window& w, std::int64_t position) {
  const std::int64_t x = position % w.input[2], y = position / w.input[2] % w.input[1];
  const std::int64_t z = position / (w.input[2] * w.input[1]);
  return y + x * w.input[1] + z * w.input[1] * w.input[2];
}

}  // namespace

Window pool_window_of(const Attrs& attrs, const Shape& image) {
  return window_of(attrs, image, attrs.get("kernel_shape", std::vector<std::int64_t>{}),
                   attrs.get("ceil_mode", std::int64_t{0}) != 0);
}

std::vector<float> pool_divisors(const Window& w, bool include_pad) {
  std::vector<float> per_axis[3];
  for (std::size_t axis = 0; axis < 3; ++axis) {
    for (std::int64_t p = 0; p < w.output[axis]; ++p) {
      std::int64_t taps = 0;
      for (std::int64_t k = 0; k < w.kernel[axis]; ++k) {
        const std::int64_t i = p * w.stride[axis] + k * w.dilation[axis] - w.pad_begin[axis];
        taps += include_pad ? i < w.input[axis] + w.pad_end[axis] : i >= 0 && i < w.input[axis];
      }
      per_axis[axis].push_back(static_cast<float>(taps));
    }
  }
  std::vector<float> out;
  out.reserve(at(w.output_size()));
  for (const float z : per_axis[0]) {
    for (const float y : per_axis[1]) {
      for (const float x : per_axis[2]) out.push_back(std::max(1.0F, z * y * x));
    }
  }
  return out;
}

template <class T>
void average_pool(Threads& threads, const Window& w, std::int64_t planes, const std::vector<float>& divisors,
                  const T* x, T* y) {
  threads.for_each(planes, planes_per_task(w), [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> scratch;
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t p = begin; p < end; ++p) {
        T* out = y + p * w.output_size();
        Slide<AddValue, T>(w, x + p * w.input_size(), nullptr, T(0), out).run(scratch);
        for (std::int64_t i = 0; i < w.output_size(); ++i) out[i] /= static_cast<T>(divisors[at(i)]);
      }
    });
  });
}

template void average_pool(Threads&, const Window&, std::int64_t, const std::vector<float>&, const float*, float*);
template void average_pool(Threads&, const Window&, std::int64_t, const std::vector<float>&, const double*, double*);

template <class T>
void plane_means(Threads& threads, std::int64_t planes, std::int64_t size, const T* x, T* y) {
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 16) / std::max<std::int64_t>(size, 1));
  threads.for_each(planes, grain, [&](std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t lanes = 8;  // independent sums, so that additions overlap
    for (std::int64_t p = begin; p < end; ++p) {
      const T* from = x + p * size;
      double sums[lanes] = {};
      std::int64_t i = 0;
      for (; i + lanes <= size; i += lanes) {
        for (std::int64_t l = 0; l < lanes; ++l) sums[l] += static_cast<double>(from[i + l]);
      }
      double sum = 0;
      for (; i < size; ++i) sum += static_cast<double>(from[i]);
      for (const double s : sums) sum += s;
      y[p] = static_cast<T>(sum / static_cast<double>(size));
    }
  });
}

template void plane_means(Threads&, std::int64_t, std::int64_t, const float*, float*);
template void plane_means(Threads&, std::int64_t, std::int64_t, const double*, double*);

void infer_pool(InferContext& c, std::size_t image, bool known_dtype, DType dtype) {
  Type t;
  t.dtype = dtype;
  t.known_dtype = known_dtype;
  if (const Type& x = c.in(image); x.known_rank && x.shape.size() >= 3) {
    t.known_rank = true;
    t.shape = {x.shape[0], x.shape[1]};
    const Shape spatial = infer_window(c.attrs(), x.shape, c.attrs().get("kernel_shape", std::vector<std::int64_t>{}),
                                       c.attrs().get("ceil_mode", std::int64_t{0}) != 0, false);
    t.shape.insert(t.shape.end(), spatial.begin(), spatial.end());
  }
  c.out(0, t);
}

void infer_global_pool(InferContext& c, std::size_t image, bool known_dtype, DType dtype) {
  Type t;
  t.dtype = dtype;
  t.known_dtype = known_dtype;
  if (const Type& x = c.in(image); x.known_rank && x.shape.size() >= 2) {
    t.known_rank = true;
    t.shape = x.shape;
    std::fill(t.shape.begin() + 2, t.shape.end(), 1);
  }
  c.out(0, t);
}

namespace op {
namespace {

std::int64_t planes_of(const Shape& image) { return image[0] * image[1]; }

Shape global_shape(const Shape& image) {
  require(image.size() >= 2, "a global pool needs an image, not shape " + to_string(image));
  Shape s = image;
  std::fill(s.begin() + 2, s.end(), 1);
  return s;
}

std::int64_t plane_size(const Shape& image) { return element_count(Shape(image.begin() + 2, image.end())); }

void infer_window_op(InferContext& c) { infer_pool(c, 0, c.in(0).known_dtype, c.in(0).dtype); }

void infer_max(InferContext& c) {
  infer_window_op(c);
  Type t = c.outputs.empty() ? Type{} : c.outputs[0];
  t.dtype = DType::i64;
  t.known_dtype = true;
  c.out(1, t);
}

void infer_global(InferContext& c) { infer_global_pool(c, 0, c.in(0).known_dtype, c.in(0).dtype); }

template <class T>
void max_pool(const OpContext& ctx, const Tensor& image, const Window& w, Tensor& y, Tensor& indices) {
  const T* x = image.read<T>().data();
  T* out = y.write<T>().data();
  const std::int64_t planes = planes_of(image.shape());
  if (indices.empty()) {
    ctx.threads.for_each(planes, planes_per_task(w), [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> scratch;
      with_widest_vectors([&]() QTOOL_INLINE {
        for (std::int64_t p = begin; p < end; ++p) {
          const T* from = x + p * w.input_size();
          T* to = out + p * w.output_size();
          if (w.input[0] == 1 && w.output[0] == 1 && w.kernel[0] == 1) {
            max_plane(w, from, to, scratch);
          } else {
            Slide<TakeLarger, T>(w, from, nullptr, lowest<T>(), to).run(scratch);
          }
        }
      });
    });
    return;
  }
  const bool by_column = ctx.attrs().get("storage_order", std::int64_t{0}) != 0;
  std::int64_t* places = indices.write<std::int64_t>().data();
  ctx.threads.for_each(planes, planes_per_task(w), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const T* from = x + p * w.input_size();
      std::int64_t* place = places + p * w.output_size();
      argmax_plane(w, from, place);
      for (std::int64_t i = 0; i < w.output_size(); ++i) {
        const std::int64_t inside = place[i];
        out[p * w.output_size() + i] = inside < 0 ? lowest<T>() : from[inside];
        if (inside >= 0) place[i] = p * w.input_size() + (by_column ? column_major(w, inside) : inside);
      }
    }
  });
}

void max_forward(const OpContext& ctx) {
  const DType stored = ctx.in(0).dtype();
  const bool integers = stored == DType::i8 || stored == DType::u8;
  const Tensor x = integers ? ctx.in(0) : compute_float(ctx.in(0), "the image");
  const Window w = pool_window_of(ctx.attrs(), x.shape());
  const Shape shape = w.output_shape(x.shape()[0], x.shape()[1]);
  Tensor y = Tensor::unset(x.dtype(), shape), indices;
  if (ctx.wants(1)) indices = Tensor(DType::i64, shape);
  if (stored == DType::i8) {
    max_pool<std::int8_t>(ctx, x, w, y, indices);
  } else if (stored == DType::u8) {
    max_pool<std::uint8_t>(ctx, x, w, y, indices);
  } else {
    op::for_float_type(x.dtype(), [&](auto zero) { max_pool<decltype(zero)>(ctx, x, w, y, indices); });
  }
  ctx.out(0, op::narrowed(std::move(y), stored));
  if (indices) ctx.out(1, std::move(indices));
}

void max_backward(BackwardContext& ctx) {
  if (ctx.grad(0).empty() || !ctx.wants(0)) return;
  const Tensor& x = ctx.in(0);
  const Window w = pool_window_of(ctx.attrs(), x.shape());
  Tensor dx(DType::f32, x.shape());
  float* to = dx.write<float>().data();
  const float *from = x.read<float>().data(), *d = ctx.grad(0).read<float>().data();
  ctx.threads.for_each(planes_of(x.shape()), planes_per_task(w), [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int64_t> places(at(w.output_size()));
    for (std::int64_t p = begin; p < end; ++p) {
      argmax_plane(w, from + p * w.input_size(), places.data());
      for (std::int64_t i = 0; i < w.output_size(); ++i) {
        if (places[at(i)] >= 0) to[p * w.input_size() + places[at(i)]] += d[p * w.output_size() + i];
      }
    }
  });
  ctx.input_gradients[0] = std::move(dx);
}

bool include_pad(const Attrs& attrs) { return attrs.get("count_include_pad", std::int64_t{0}) != 0; }

void average_forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image");
  const Window w = pool_window_of(ctx.attrs(), x.shape());
  Tensor y = Tensor::unset(x.dtype(), w.output_shape(x.shape()[0], x.shape()[1]));
  const std::vector<float> divisors = pool_divisors(w, include_pad(ctx.attrs()));
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    average_pool<T>(ctx.threads, w, planes_of(x.shape()), divisors, x.read<T>().data(), y.write<T>().data());
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

void average_backward(BackwardContext& ctx) {
  if (ctx.grad(0).empty() || !ctx.wants(0)) return;
  const Tensor& x = ctx.in(0);
  const Window w = pool_window_of(ctx.attrs(), x.shape());
  const std::vector<float> divisors = pool_divisors(w, include_pad(ctx.attrs()));
  Tensor dx(DType::f32, x.shape());
  float* to = dx.write<float>().data();
  const float* d = ctx.grad(0).read<float>().data();
  ctx.threads.for_each(planes_of(x.shape()), planes_per_task(w), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> share(at(w.output_size()));
    for (std::int64_t p = begin; p < end; ++p) {
      for (std::size_t i = 0; i < share.size(); ++i) {
        share[i] = d[p * w.output_size() + static_cast<std::int64_t>(i)] / divisors[i];
      }
      for_each_tap(w, to + p * w.input_size(), share.data(),
                   [](const float* from, const float* image, std::int64_t first, std::int64_t last, std::int64_t step) {
                     float* target = const_cast<float*>(image);  // the taps of dx, which this call owns
                     for (std::int64_t i = first; i < last; ++i) target[i * step] += from[i];
                   });
    }
  });
  ctx.input_gradients[0] = std::move(dx);
}

void global_average_forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image");
  Tensor y(x.dtype(), global_shape(x.shape()));
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    plane_means<T>(ctx.threads, planes_of(x.shape()), plane_size(x.shape()), x.read<T>().data(), y.write<T>().data());
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

void global_average_backward(BackwardContext& ctx) {
  if (ctx.grad(0).empty() || !ctx.wants(0)) return;
  const Shape& shape = ctx.in(0).shape();
  const std::int64_t size = plane_size(shape);
  Tensor dx(DType::f32, shape);
  const auto to = dx.write<float>();
  const auto d = ctx.grad(0).read<float>();
  for (std::int64_t i = 0; i < dx.count(); ++i) to[at(i)] = d[at(i / size)] / static_cast<float>(size);
  ctx.input_gradients[0] = std::move(dx);
}

void global_max_forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image");
  Tensor y(x.dtype(), global_shape(x.shape()));
  const std::int64_t size = plane_size(x.shape());
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = x.read<T>().data();
    for (T& out : y.write<T>()) {
      out = lowest<T>();
      for (std::int64_t i = 0; i < size; ++i) out = std::max(out, from[i]);
      from += size;
    }
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

/// The exponent of an Lp norm: an integer since opset 2, a float before.
double exponent_of(const Attrs& attrs) {
  const Attr* p = attrs.find("p");
  if (p == nullptr) return 2;
  const double value = std::holds_alternative<float>(p->value) ? static_cast<double>(attrs.get("p", 2.0F))
                                                               : static_cast<double>(attrs.get("p", std::int64_t{2}));
  require(value > 0, "the exponent p of a pool must be positive");
  return value;
}

double power(double x, double p) { return p == 2 ? x * x : p == 1 ? std::abs(x) : std::pow(std::abs(x), p); }
double root(double x, double p) { return p == 2 ? std::sqrt(x) : p == 1 ? x : std::pow(x, 1 / p); }

void lp_forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image");
  const Window w = pool_window_of(ctx.attrs(), x.shape());
  const double exponent = exponent_of(ctx.attrs());
  Tensor y(x.dtype(), w.output_shape(x.shape()[0], x.shape()[1]));
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = x.read<T>().data();
    T* out = y.write<T>().data();
    ctx.threads.for_each(planes_of(x.shape()), planes_per_task(w), [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> sums(at(w.output_size()));
      for (std::int64_t p = begin; p < end; ++p) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for_each_tap(w, from + p * w.input_size(), sums.data(),
                     [exponent](double* to, const T* in, std::int64_t first, std::int64_t last, std::int64_t step) {
                       for (std::int64_t i = first; i < last; ++i) {
                         to[i] += power(static_cast<double>(in[i * step]), exponent);
                       }
                     });
        for (std::size_t i = 0; i < sums.size(); ++i) {
          out[p * w.output_size() + static_cast<std::int64_t>(i)] = static_cast<T>(root(sums[i], exponent));
        }
      }
    });
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

void global_lp_forward(const OpContext& ctx) {
  const Tensor x = compute_float(ctx.in(0), "the image");
  const double exponent = exponent_of(ctx.attrs());
  Tensor y(x.dtype(), global_shape(x.shape()));
  const std::int64_t size = plane_size(x.shape());
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = x.read<T>().data();
    for (T& out : y.write<T>()) {
      double sum = 0;
      for (std::int64_t i = 0; i < size; ++i) sum += power(static_cast<double>(from[i]), exponent);
      out = static_cast<T>(root(sum, exponent));
      from += size;
    }
  });
  ctx.out(0, op::narrowed(std::move(y), ctx.in(0).dtype()));
}

void unpool_infer(InferContext& c) {
  if (c.in(0).known_dtype) c.out(0, c.in(0).dtype);
}

void unpool_forward(const OpContext& ctx) {
  const Tensor &x = ctx.in(0), &indices = ctx.in(1);
  require(x.shape() == indices.shape() && x.shape().size() >= 3, "MaxUnpool needs one index per value");
  require(x.dtype() == DType::f32, "MaxUnpool needs float32 values");
  // The inverse of the extents of a pool: its window, seen from the small image.
  Shape shape = x.shape();
  const Window w =
      transposed_window_of(ctx.attrs(), x.shape(), ctx.attrs().get("kernel_shape", std::vector<std::int64_t>{}));
  for (std::size_t i = 0; i < w.axes; ++i) shape[i + 2] = w.input[3 - w.axes + i];
  // Indices count in the extents that the pool saw; output_shape may ask for more room around them.
  const Shape counted = shape;
  if (ctx.has(2)) {
    shape = to_int64s(ctx.in(2));
    require(shape.size() == x.shape().size(), "output_shape does not have the rank of the values");
    for (std::size_t i = 0; i < shape.size(); ++i) {
      require(i < 2 ? shape[i] == counted[i] : shape[i] >= counted[i],
              "output_shape " + to_string(shape) + " is too small");
    }
  }
  Tensor y(x.dtype(), shape);
  const auto to = y.write<float>();
  const auto from = x.read<float>();
  const auto places = indices.read<std::int64_t>();
  const std::int64_t total = element_count(counted);
  for (std::size_t i = 0; i < from.size(); ++i) {
    require(places[i] >= 0 && places[i] < total, "MaxUnpool has the index " + std::to_string(places[i]));
    std::int64_t rest = places[i], place = 0, step = 1;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      place += rest % counted[axis] * step;
      rest /= counted[axis];
      step *= shape[axis];
    }
    to[at(place)] = from[i];
  }
  ctx.out(0, std::move(y));
}

}  // namespace

constinit const OpDef AveragePool{"AveragePool", "", 1, infer_window_op, average_forward, average_backward};
constinit const OpDef GlobalAveragePool{"GlobalAveragePool",    "", 1, infer_global, global_average_forward,
                                        global_average_backward};
constinit const OpDef GlobalLpPool{"GlobalLpPool", "", 1, infer_global, global_lp_forward, nullptr};
constinit const OpDef GlobalMaxPool{"GlobalMaxPool", "", 1, infer_global, global_max_forward, nullptr};
constinit const OpDef LpPool{"LpPool", "", 1, infer_window_op, lp_forward, nullptr};
constinit const OpDef MaxPool{"MaxPool", "", 1, infer_max, max_forward, max_backward};
constinit const OpDef MaxUnpool{"MaxUnpool", "", 9, unpool_infer, unpool_forward, nullptr};

}  // namespace op
}  // namespace qtool

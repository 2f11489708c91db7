// SPDX-License-Identifier: Apache-2.0
// Resize and its ancestor Upsample. Interpolation is separable: each resized axis gets a table of taps and weights,
// and the axes are taken one after the other. Coordinates are computed in float32, as runtimes do.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

enum class Mode : std::uint8_t { nearest, linear, cubic };

struct Settings {
  Mode mode = Mode::nearest;
  std::string coordinates = "half_pixel";
  std::string nearest = "round_prefer_floor";
  float cubic_a = -0.75F;
  bool exclude_outside = false, antialias = false;
  float extrapolation = 0;
};

/// One axis of the image: its extents and where it is cut (tf_crop_and_resize).
struct Axis {
  std::int64_t input = 1, output = 1;
  float scale = 1, roi_begin = 0, roi_end = 1;
  bool touched = false;
};

/// For every output position `taps` input positions with weights; `outside`: beyond the image (tf_crop_and_resize).
struct Table {
  std::int64_t taps = 1;
  std::vector<std::int64_t> positions;
  std::vector<float> weights;
  std::vector<std::uint8_t> outside;
};

float original_coordinate(const Settings& s, const Axis& a, std::int64_t position) {
  const auto x = static_cast<float>(position), in = static_cast<float>(a.input), out = static_cast<float>(a.output);
  if (s.coordinates == "asymmetric") return x / a.scale;
  if (s.coordinates == "align_corners") return a.output == 1 ? 0.0F : x * (in - 1) / (out - 1);
  if (s.coordinates == "pytorch_half_pixel") return a.output > 1 ? (x + 0.5F) / a.scale - 0.5F : 0.0F;
  if (s.coordinates == "tf_half_pixel_for_nn") return (x + 0.5F) / a.scale;
  if (s.coordinates == "tf_crop_and_resize") {
    if (a.output > 1) return a.roi_begin * (in - 1) + x * (a.roi_end - a.roi_begin) * (in - 1) / (out - 1);
    return 0.5F * (a.roi_begin + a.roi_end) * (in - 1);
  }
  if (s.coordinates == "half_pixel_symmetric") {
    const float adjustment = out / (a.scale * in), center = in / 2;
    return center * (1 - adjustment) + (x + 0.5F) / a.scale - 0.5F;
  }
  require(s.coordinates == "half_pixel", "coordinate_transformation_mode has the value \"" + s.coordinates + "\"");
  return (x + 0.5F) / a.scale - 0.5F;
}

std::int64_t nearest_position(const Settings& s, const Axis& a, float x) {
  if (s.nearest == "floor") return static_cast<std::int64_t>(std::floor(x));
  if (s.nearest == "ceil") return static_cast<std::int64_t>(std::ceil(x));
  if (s.nearest == "round_prefer_ceil") return static_cast<std::int64_t>(std::floor(x + 0.5F));
  if (s.nearest == "opset10") return static_cast<std::int64_t>(a.scale < 1 ? std::ceil(x) : std::floor(x));
  require(s.nearest == "round_prefer_floor", "nearest_mode has the value \"" + s.nearest + "\"");
  return static_cast<std::int64_t>(std::ceil(x - 0.5F));
}

/// Keys' cubic convolution kernel (R. Keys, 1981, eq. 15) at distance x, with parameter a.
float cubic_kernel(float x, float a) {
  x = std::abs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

Table make_table(const Settings& s, const Axis& axis) {
  Table t;
  // Antialiasing widens the kernel by the factor of the reduction.
  const float stretch = s.antialias && axis.scale < 1 ? axis.scale : 1.0F;
  const float radius = s.mode == Mode::cubic ? 2.0F : 1.0F;
  std::int64_t reach = 0;  // taps on either side of the coordinate
  if (s.mode != Mode::nearest) {
    reach = std::min<std::int64_t>(static_cast<std::int64_t>(std::ceil(radius / stretch)), 2 * axis.input + 4);
    t.taps = 2 * reach;
  }
  require(t.taps * axis.output <= std::int64_t{1} << 28, "a resize with that many taps is not supported");
  t.positions.reserve(at(t.taps * axis.output));
  t.weights.reserve(at(t.taps * axis.output));
  for (std::int64_t p = 0; p < axis.output; ++p) {
    float x = original_coordinate(s, axis, p);
    require(std::isfinite(x), "the scales of a resize give no coordinates");
    const auto last = static_cast<float>(axis.input - 1);
    t.outside.push_back(s.coordinates == "tf_crop_and_resize" && (x < 0 || x > last));
    x = std::clamp(x, -2 * static_cast<float>(axis.input) - 8, 3 * static_cast<float>(axis.input) + 8);
    if (s.mode == Mode::nearest) {
      t.positions.push_back(std::clamp<std::int64_t>(nearest_position(s, axis, x), 0, axis.input - 1));
      t.weights.push_back(1);
      continue;
    }
    if (s.mode == Mode::linear && stretch == 1.0F) x = std::clamp(x, 0.0F, last);
    const auto base = static_cast<std::int64_t>(std::floor(x));
    const float ratio = x - static_cast<float>(base);
    const std::size_t begin = t.weights.size();
    float sum = 0;
    for (std::int64_t i = 1 - reach; i <= reach; ++i) {
      const float distance = (static_cast<float>(i) - ratio) * stretch;
      float weight = s.mode == Mode::cubic ? cubic_kernel(distance, s.cubic_a) : std::max(0.0F, 1 - std::abs(distance));
      const std::int64_t position = base + i;
      if (s.exclude_outside && (position < 0 || position >= axis.input)) weight = 0;
      t.positions.push_back(std::clamp<std::int64_t>(position, 0, axis.input - 1));
      t.weights.push_back(weight);
      sum += weight;
    }
    if ((s.exclude_outside || stretch != 1.0F) && sum != 0) {
      for (std::size_t i = begin; i < t.weights.size(); ++i) t.weights[i] /= sum;
    }
  }
  return t;
}

/// [outer, in, inner] to [outer, out, inner].
template <class T>
void interpolate(Threads& threads, const Axis& a, const Table& t, std::int64_t outer, std::int64_t inner, const T* x,
                 T* y) {
  const std::int64_t rows = outer * a.output;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(1, inner * t.taps));
  threads.for_each(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* from = x + r / a.output * a.input * inner;
      const std::int64_t first = r % a.output * t.taps;
      T* to = y + r * inner;
      if (inner == 1) {
        T sum = 0;
        for (std::int64_t k = first; k < first + t.taps; ++k)
          sum += static_cast<T>(t.weights[at(k)]) * from[t.positions[at(k)]];
        *to = sum;
        continue;
      }
      for (std::int64_t k = first; k < first + t.taps; ++k) {
        const T weight = static_cast<T>(t.weights[at(k)]);
        const T* row = from + t.positions[at(k)] * inner;
        if (k == first) {
          for (std::int64_t i = 0; i < inner; ++i) to[i] = weight * row[i];
        } else if (weight != T(0)) {
          for (std::int64_t i = 0; i < inner; ++i) to[i] += weight * row[i];
        }
      }
    }
  });
}

template <std::size_t Bytes>
void pick_elements(const Table& t, const std::byte* from, std::byte* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) std::memcpy(to + i * Bytes, from + t.positions[at(i)] * Bytes, Bytes);
}

/// The same for nearest, where elements of `bytes` bytes only move.
void pick(Threads& threads, const Axis& a, const Table& t, std::int64_t outer, std::int64_t inner, std::int64_t bytes,
          const std::byte* x, std::byte* y) {
  const std::int64_t row = inner * bytes;
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(1, a.output * inner));
  threads.for_each(outer, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      const std::byte* from = x + o * a.input * row;
      std::byte* to = y + o * a.output * row;
      if (row == 4) {
        pick_elements<4>(t, from, to, a.output);
      } else if (row == 1) {
        pick_elements<1>(t, from, to, a.output);
      } else {
        for (std::int64_t i = 0; i < a.output; ++i) std::memcpy(to + i * row, from + t.positions[at(i)] * row, at(row));
      }
    }
  });
}

Shape shape_with(const Shape& shape, std::size_t axis, std::int64_t extent) {
  Shape s = shape;
  s[axis] = extent;
  return s;
}

std::int64_t product(const Shape& s, std::size_t begin, std::size_t end) {
  return std::accumulate(s.begin() + static_cast<std::ptrdiff_t>(begin), s.begin() + static_cast<std::ptrdiff_t>(end),
                         std::int64_t{1}, std::multiplies<>());
}

/// Rows and columns that fall outside of the image (any axis) take the extrapolation value.
template <class T>
void extrapolate(const std::vector<Table>& tables, const std::vector<Axis>& axes, float value, std::span<T> y) {
  std::vector<std::int64_t> index(axes.size(), 0);
  for (T& element : y) {
    for (std::size_t i = 0; i < axes.size(); ++i) {
      if (axes[i].touched && tables[i].outside[at(index[i])] != 0) {
        element = static_cast<T>(value);
        break;
      }
    }
    for (std::size_t i = axes.size(); i-- > 0;) {
      if (++index[i] < axes[i].output) break;
      index[i] = 0;
    }
  }
}

Tensor resize_nearest(Threads& threads, const Settings& s, const std::vector<Axis>& axes,
                      const std::vector<Table>& tables, Tensor x) {
  const int bits = bit_width(x.dtype());
  require(bits >= 8, "a resize of elements of type " + std::string(name_of(x.dtype())) + " is not supported");
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (!axes[i].touched) continue;
    Tensor y = Tensor::unset(x.dtype(), shape_with(x.shape(), i, axes[i].output));
    if (y.count() > 0) {
      pick(threads, axes[i], tables[i], product(x.shape(), 0, i), product(x.shape(), i + 1, axes.size()), bits / 8,
           x.bytes().data(), y.write_bytes().data());
    }
    x = std::move(y);
  }
  if (s.coordinates == "tf_crop_and_resize" && x.dtype() == DType::f32) {
    extrapolate<float>(tables, axes, s.extrapolation, x.write<float>());
  }
  return x;
}

template <class T>
Tensor resize_smooth(Threads& threads, const Settings& s, const std::vector<Axis>& axes,
                     const std::vector<Table>& tables, Tensor x) {
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (!axes[i].touched) continue;
    Tensor y = Tensor::unset(x.dtype(), shape_with(x.shape(), i, axes[i].output));
    interpolate<T>(threads, axes[i], tables[i], product(x.shape(), 0, i), product(x.shape(), i + 1, axes.size()),
                   x.read<T>().data(), y.write<T>().data());
    x = std::move(y);
  }
  if (s.coordinates == "tf_crop_and_resize") extrapolate<T>(tables, axes, s.extrapolation, x.template write<T>());
  return x;
}

/// The adjoint of interpolate() and pick(): [outer, out, inner] to [outer, in, inner], which starts as zeros.
void spread(Threads& threads, const Axis& a, const Table& t, std::int64_t outer, std::int64_t inner, const float* dy,
            float* dx) {
  const std::int64_t grain =
      std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(1, a.output * inner * t.taps));
  threads.for_each(outer, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      for (std::int64_t k = 0; k < a.output * t.taps; ++k) {
        const float* from = dy + (o * a.output + k / t.taps) * inner;
        float* to = dx + (o * a.input + t.positions[at(k)]) * inner;
        const float weight = t.weights[at(k)];
        for (std::int64_t i = 0; i < inner; ++i) to[i] += weight * from[i];
      }
    }
  });
}

std::vector<Table> tables_of(const Settings& s, const std::vector<Axis>& axes) {
  std::vector<Table> tables;
  for (const Axis& a : axes) {
    require(a.input > 0 || a.output == 0, "an empty image cannot be resized to " + std::to_string(a.output));
    tables.push_back(a.touched && a.output > 0 ? make_table(s, a) : Table{});
  }
  return tables;
}

/// d(loss)/d(x) from d(loss)/d(y). What was extrapolated does not depend on x.
Tensor resize_backward(Threads& threads, const Settings& s, const std::vector<Axis>& axes, Tensor gradient) {
  const std::vector<Table> tables = tables_of(s, axes);
  if (s.coordinates == "tf_crop_and_resize") extrapolate<float>(tables, axes, 0, gradient.write<float>());
  for (std::size_t i = axes.size(); i-- > 0;) {
    if (!axes[i].touched) continue;
    const Shape& shape = gradient.shape();
    Tensor wider(DType::f32, shape_with(shape, i, axes[i].input));
    if (gradient.count() > 0) {
      spread(threads, axes[i], tables[i], product(shape, 0, i), product(shape, i + 1, axes.size()),
             gradient.read<float>().data(), wider.write<float>().data());
    }
    gradient = std::move(wider);
  }
  return gradient;
}

Tensor resize(Threads& threads, const Settings& s, const std::vector<Axis>& axes, const Tensor& x) {
  Shape shape;
  for (const Axis& a : axes) shape.push_back(a.output);
  element_count(shape);  // refuses what overflows
  const std::vector<Table> tables = tables_of(s, axes);
  if (x.count() == 0) return Tensor(x.dtype(), shape);
  if (s.mode == Mode::nearest) return resize_nearest(threads, s, axes, tables, x);
  if (x.dtype() == DType::f64) return resize_smooth<double>(threads, s, axes, tables, x);
  Tensor y = resize_smooth<float>(threads, s, axes, tables, is_float(x.dtype()) ? widened(x) : to_f32(x));
  if (is_integer(x.dtype()) && !s.antialias) {
    for (float& v : y.write<float>()) v = std::trunc(v);  // as runtimes convert
  }
  return x.dtype() == DType::f32 ? y : from_f32(y, x.dtype());
}

Mode mode_of(const std::string& name) {
  if (name == "nearest") return Mode::nearest;
  if (name == "linear" || name == "bilinear") return Mode::linear;
  require(name == "cubic", "mode has the value \"" + name + "\"");
  return Mode::cubic;
}

Settings settings_of(const Attrs& attrs, bool upsample, std::int64_t opset) {
  Settings s;
  s.mode = mode_of(attrs.get("mode", "nearest"));
  if (upsample || opset < 11) {
    s.coordinates = "asymmetric";
    s.nearest = upsample ? "floor" : "opset10";
    return s;
  }
  s.coordinates = attrs.get("coordinate_transformation_mode", "half_pixel");
  s.nearest = attrs.get("nearest_mode", "round_prefer_floor");
  s.cubic_a = attrs.get("cubic_coeff_a", -0.75F);
  s.exclude_outside = attrs.get("exclude_outside", std::int64_t{0}) != 0;
  s.extrapolation = attrs.get("extrapolation_value", 0.0F);
  s.antialias = attrs.get("antialias", std::int64_t{0}) != 0;
  return s;
}

/// What a node says about the new extents; empty tensors where it says nothing.
struct Request {
  Tensor roi, scales, sizes;
};

template <class Context>
Request request_of(const Context& c, bool upsample) {
  const auto input = [&c](std::size_t i) {
    if constexpr (std::is_same_v<Context, InferContext>) {
      return c.constant(i);
    } else {
      return c.in(i);
    }
  };
  Request r;
  if (upsample && c.opset < 9) {
    const std::vector<float> scales = c.attrs().get("scales", std::vector<float>{});
    r.scales = Tensor::of<float>({static_cast<std::int64_t>(scales.size())}, scales);
  } else if (upsample || c.opset < 11) {
    r.scales = input(1);
  } else {
    r = {input(1), input(2), input(3)};
    if (r.scales.count() == 0) r.scales = Tensor();
    if (r.sizes.count() == 0) r.sizes = Tensor();
  }
  return r;
}

std::vector<Axis> axes_of(const Attrs& attrs, const Settings& s, const Shape& shape, const Request& r) {
  std::vector<Axis> axes(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) axes[i].input = axes[i].output = shape[i];
  std::vector<std::int64_t> named = attrs.get("axes", std::vector<std::int64_t>{});
  if (named.empty()) {
    named.resize(shape.size());
    std::iota(named.begin(), named.end(), 0);
  }
  for (std::int64_t& a : named) a = axis_in(a, static_cast<std::int64_t>(shape.size()));
  require(static_cast<bool>(r.scales) != static_cast<bool>(r.sizes), "a resize needs scales or sizes, and not both");
  const auto count = static_cast<std::int64_t>(named.size());
  const bool crop = s.coordinates == "tf_crop_and_resize";
  std::vector<float> roi;
  if (crop) {
    require(r.roi.count() == 2 * count, "tf_crop_and_resize needs two numbers of roi per axis");
    const Tensor as_float = to_f32(r.roi);
    roi.assign(as_float.read<float>().begin(), as_float.read<float>().end());
  }
  if (r.scales) {
    require(r.scales.dtype() == DType::f32 && r.scales.count() == count, "a resize needs one scale per axis");
  } else {
    require(r.sizes.dtype() == DType::i64 && r.sizes.count() == count, "a resize needs one size per axis");
  }
  const std::string policy = attrs.get("keep_aspect_ratio_policy", "stretch");
  float common = 0;
  if (r.sizes && policy != "stretch") {
    require(policy == "not_larger" || policy == "not_smaller",
            "keep_aspect_ratio_policy has the value \"" + policy + "\"");
    for (std::int64_t i = 0; i < count; ++i) {
      const float ratio =
          static_cast<float>(r.sizes.read<std::int64_t>()[at(i)]) / static_cast<float>(shape[at(named[at(i)])]);
      common = i == 0 ? ratio : policy == "not_larger" ? std::min(common, ratio) : std::max(common, ratio);
    }
  }
  for (std::int64_t i = 0; i < count; ++i) {
    Axis& a = axes[at(named[at(i)])];
    if (crop) {
      a.roi_begin = roi[at(i)];
      a.roi_end = roi[at(i + count)];
    }
    const auto in = static_cast<float>(a.input);
    if (r.scales) {
      a.scale = r.scales.read<float>()[at(i)];
      require(a.scale > 0 && a.scale < 1e9F, "a resize has the scale " + std::to_string(a.scale));
      const double wide = static_cast<double>(in * (crop ? a.roi_end - a.roi_begin : 1.0F) * a.scale);
      require(std::isfinite(wide) && wide < 1e12, "a resize makes an axis of " + std::to_string(wide) + " elements");
      a.output = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::floor(wide)));
    } else if (common > 0) {
      a.scale = common;
      a.output = static_cast<std::int64_t>(std::round(in * common));
    } else {
      a.output = r.sizes.read<std::int64_t>()[at(i)];
      a.scale = static_cast<float>(a.output) / in;
    }
    require(a.output >= 0 && a.output < std::int64_t{1} << 40, "a resize makes an axis of " + std::to_string(a.output));
    a.touched = crop || a.output != a.input || a.scale != 1.0F;
  }
  return axes;
}

template <bool upsample>
void forward(const OpContext& c) {
  const Settings s = settings_of(c.attrs(), upsample, c.opset);
  const Tensor& x = c.in(0);
  c.out(0, resize(c.threads, s, axes_of(c.attrs(), s, x.shape(), request_of(c, upsample)), x));
}

template <bool upsample>
void backward(BackwardContext& c) {
  if (!c.wants(0)) return;
  const Settings s = settings_of(c.attrs(), upsample, c.opset);
  const std::vector<Axis> axes = axes_of(c.attrs(), s, c.in(0).shape(), request_of(c, upsample));
  c.input_gradients[0] = resize_backward(c.threads, s, axes, c.grad(0));
}

template <bool upsample>
void infer(InferContext& c) {
  Type t;
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  if (c.in(0).known_rank) {
    t.known_rank = true;
    t.shape.assign(c.in(0).shape.size(), -1);
    const Request r = request_of(c, upsample);
    const Settings s = settings_of(c.attrs(), upsample, c.opset);
    if (static_cast<bool>(r.scales) != static_cast<bool>(r.sizes) && (s.coordinates != "tf_crop_and_resize" || r.roi)) {
      // Unknown extents are tried as 1 and stay unknown, unless `sizes` says what comes out.
      Shape tried = c.in(0).shape;
      for (std::int64_t& d : tried) d = std::max<std::int64_t>(d, 1);
      const std::vector<Axis> axes = axes_of(c.attrs(), s, tried, r);
      const bool stretch = r.sizes && c.attrs().get("keep_aspect_ratio_policy", "stretch") == "stretch";
      for (std::size_t i = 0; i < axes.size(); ++i) {
        const bool known = c.in(0).shape[i] >= 0 || (stretch && axes[i].output != tried[i]);
        t.shape[i] = known ? axes[i].output : -1;
      }
    }
  }
  c.out(0, t);
}

}  // namespace

constinit const OpDef Resize{"Resize", "", 10, infer<false>, forward<false>, backward<false>};
constinit const OpDef Upsample{"Upsample", "", 7, infer<true>, forward<true>, backward<true>};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/window.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "calib/ops/operand.h"
#include "calib/ops/slide.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

// Larger attributes are mistakes or attacks; the bound keeps every product below 2^62.
constexpr std::int64_t largest_attribute = 1 << 24;

struct Attributes {
  std::string auto_pad;
  std::vector<std::int64_t> stride, dilation, pads, output_padding, output_shape;
};

std::vector<std::int64_t> checked(const Attrs& attrs, const char* name, std::size_t size, std::int64_t otherwise,
                                  std::int64_t lowest) {
  std::vector<std::int64_t> v = attrs.get(name, std::vector<std::int64_t>{});
  if (v.empty()) v.assign(size, otherwise);
  require(v.size() == size, std::string(name) + " has " + std::to_string(v.size()) + " entries where " +
                                std::to_string(size) + " are needed");
  for (const std::int64_t x : v) {
    require(x >= lowest && x <= largest_attribute, std::string(name) + " has the value " + std::to_string(x));
  }
  return v;
}

Attributes read_attributes(const Attrs& attrs, std::size_t axes, const Shape& kernel) {
  require(axes >= 1 && axes <= 3, "the image has " + std::to_string(axes) + " spatial axes; 1 to 3 are supported");
  require(kernel.size() == axes,
          "the kernel " + to_string(kernel) + " does not have " + std::to_string(axes) + " axes");
  for (const std::int64_t k : kernel) {
    require(k >= 1 && k <= largest_attribute, "the kernel has the extents " + to_string(kernel));
  }
  Attributes a;
  a.auto_pad = attrs.get("auto_pad", "NOTSET");
  if (a.auto_pad.empty()) a.auto_pad = "NOTSET";
  require(a.auto_pad == "NOTSET" || a.auto_pad == "VALID" || a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER",
          "auto_pad has the value \"" + a.auto_pad + "\"");
  a.stride = checked(attrs, "strides", axes, 1, 1);
  a.dilation = checked(attrs, "dilations", axes, 1, 1);
  a.pads = checked(attrs, "pads", 2 * axes, 0, 0);
  a.output_padding = checked(attrs, "output_padding", axes, 0, 0);
  if (attrs.has("output_shape") && !attrs.get("output_shape", std::vector<std::int64_t>{}).empty()) {
    a.output_shape = attrs.get("output_shape", std::vector<std::int64_t>{});
    if (a.output_shape.size() == axes + 2) a.output_shape.erase(a.output_shape.begin(), a.output_shape.begin() + 2);
    require(a.output_shape.size() == axes, "output_shape does not have the spatial axes of the image");
    for (const std::int64_t x : a.output_shape) {
      require(x >= 1 && x <= largest_attribute, "output_shape has the value " + std::to_string(x));
    }
  }
  return a;
}

struct Extent {
  std::int64_t output = 0, begin = 0, end = 0;  // positions, padding
};

Extent slide(const Attributes& a, std::size_t axes, std::size_t i, std::int64_t input, std::int64_t kernel,
             bool ceil_mode) {
  const std::int64_t reach = (kernel - 1) * a.dilation[i] + 1, stride = a.stride[i];
  Extent e;
  if (a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER") {
    e.output = (input + stride - 1) / stride;
    const std::int64_t total = std::max<std::int64_t>(0, (e.output - 1) * stride + reach - input);
    e.begin = a.auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
    e.end = total - e.begin;
    return e;
  }
  if (a.auto_pad == "NOTSET") {
    e.begin = a.pads[i];
    e.end = a.pads[axes + i];
  }
  const std::int64_t room = input + e.begin + e.end - reach;
  if (room < 0) return e;
  e.output = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (e.output - 1) * stride >= input + e.begin) --e.output;
  return e;
}

/// Extent of the larger image of a transposed convolution; `end` may be negative when output_shape cuts.
Extent unslide(const Attributes& a, std::size_t axes, std::size_t i, std::int64_t input, std::int64_t kernel) {
  const std::int64_t reach = (kernel - 1) * a.dilation[i] + 1;
  const std::int64_t full = (input - 1) * a.stride[i] + a.output_padding[i] + reach;
  const bool same = a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER";
  Extent e;
  if (a.output_shape.empty() && !same) {
    if (a.auto_pad == "NOTSET") {
      e.begin = a.pads[i];
      e.end = a.pads[axes + i];
    }
    e.output = full - e.begin - e.end;
    return e;
  }
  e.output = a.output_shape.empty() ? input * a.stride[i] : a.output_shape[i];
  const std::int64_t total = std::max<std::int64_t>(0, full - e.output);
  e.begin = a.auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
  e.end = total - e.begin;
  return e;
}

void check_image(const Shape& image, std::size_t axes) {
  for (std::size_t i = 0; i < axes; ++i) {
    require(image[i + 2] >= 0 && image[i + 2] <= (std::int64_t{1} << 40),
            "the image has the shape " + to_string(image));
  }
}

/// What both kinds of window share; `extents` fills input and output of spatial axis i, stored at at3.
template <class F>
Window make_window(const Attrs& attrs, const Shape& image, const Shape& kernel, const F& extents) {
  require(image.size() >= 3, "an image of shape " + to_string(image) + " has no spatial axes");
  Window w;
  w.axes = image.size() - 2;
  const Attributes a = read_attributes(attrs, w.axes, kernel);
  check_image(image, w.axes);
  for (std::size_t i = 0; i < w.axes; ++i) {
    const std::size_t at3 = 3 - w.axes + i;
    const Extent e = extents(w, a, i, at3);
    w.kernel[at3] = kernel[i];
    w.stride[at3] = a.stride[i];
    w.dilation[at3] = a.dilation[i];
    w.pad_begin[at3] = e.begin;
    w.pad_end[at3] = e.end;
  }
  return w;
}

}  // namespace

bool Window::is_pointwise() const {
  const Spatial ones{1, 1, 1}, zeros{0, 0, 0};
  return kernel == ones && stride == ones && pad_begin == zeros && input == output;
}

Shape Window::output_shape(std::int64_t batch, std::int64_t channels) const {
  Shape s{batch, channels};
  for (std::size_t i = 3 - axes; i < 3; ++i) s.push_back(output[i]);
  return s;
}

void Window::valid(std::size_t axis, std::int64_t k, std::int64_t& first, std::int64_t& last) const {
  const std::int64_t offset = k * dilation[axis] - pad_begin[axis];  // of the tap at output position 0
  first = offset >= 0 ? 0 : (-offset + stride[axis] - 1) / stride[axis];
  const std::int64_t room = input[axis] - offset;  // positions p with p * stride < room
  last = room <= 0 ? 0 : (room + stride[axis] - 1) / stride[axis];
  first = std::min(first, output[axis]);
  last = std::clamp(last, first, output[axis]);
}

Window window_of(const Attrs& attrs, const Shape& image, const Shape& kernel, bool ceil_mode) {
  return make_window(attrs, image, kernel, [&](Window& w, const Attributes& a, std::size_t i, std::size_t at3) {
    const Extent e = slide(a, w.axes, i, image[i + 2], kernel[i], ceil_mode);
    require(e.output >= 1 || image[i + 2] == 0,
            "a kernel of extents " + to_string(kernel) + " does not fit into an image of shape " + to_string(image));
    w.input[at3] = image[i + 2];
    w.output[at3] = std::max<std::int64_t>(e.output, 0);
    return e;
  });
}

Window transposed_window_of(const Attrs& attrs, const Shape& image, const Shape& kernel) {
  return make_window(attrs, image, kernel, [&](Window& w, const Attributes& a, std::size_t i, std::size_t at3) {
    const Extent e = unslide(a, w.axes, i, image[i + 2], kernel[i]);
    require(e.output >= 1, "the padding leaves nothing of a transposed convolution of shape " + to_string(image));
    w.input[at3] = e.output;
    w.output[at3] = image[i + 2];
    return e;
  });
}

Shape infer_window(const Attrs& attrs, const Shape& image, const Shape& kernel, bool ceil_mode, bool transposed) {
  require(image.size() >= 3, "an image of shape " + to_string(image) + " has no spatial axes");
  const std::size_t axes = image.size() - 2;
  if (std::find(kernel.begin(), kernel.end(), -1) != kernel.end()) return Shape(axes, -1);
  const Attributes a = read_attributes(attrs, axes, kernel);
  Shape out;
  for (std::size_t i = 0; i < axes; ++i) {
    if (image[i + 2] < 0) {
      out.push_back(transposed && !a.output_shape.empty() ? a.output_shape[i] : -1);
    } else {
      out.push_back(transposed ? unslide(a, axes, i, image[i + 2], kernel[i]).output
                               : slide(a, axes, i, image[i + 2], kernel[i], ceil_mode).output);
    }
  }
  return out;
}

namespace {

/// The part of one line of outputs that a block of positions covers, and where its input begins for tap (0, 0, 0).
struct Segment {
  std::int64_t z, y;        // input line of the first tap; may lie outside
  std::int64_t begin, end;  // output columns
};

/// Copies n elements, `step` apart; short runs are many here, so no call.
template <class T>
QTOOL_INLINE inline void copy_run(const T* from, T* to, std::int64_t n, std::int64_t step) {
  if (step != 1) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[i * step];
    return;
  }
  constexpr std::int64_t lanes = 16;
  typename LanesOf<T>::type block;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    std::memcpy(&block, from + i, sizeof block);
    std::memcpy(to + i, &block, sizeof block);
  }
  if (i < n && n >= lanes) {
    std::memcpy(&block, from + n - lanes, sizeof block);
    std::memcpy(to + n - lanes, &block, sizeof block);
    return;
  }
  for (; i < n; ++i) to[i] = from[i];
}

template <class T>
QTOOL_INLINE inline void columns_of(const Window& w, const T* image, std::int64_t channels,
                                    const std::vector<Segment>& segments, T* columns, std::int64_t ld) {
  T* row = columns;
  for (std::int64_t c = 0; c < channels; ++c) {
    const T* plane = image + c * w.input_size();
    for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
      for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
        for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw, row += ld) {
          std::int64_t x0 = 0, x1 = 0;
          w.valid(2, kw, x0, x1);
          const std::int64_t shift = kw * w.dilation[2] - w.pad_begin[2];
          T* to = row;
          for (const Segment& s : segments) {
            const std::int64_t y = s.y + kh * w.dilation[1], z = s.z + kd * w.dilation[0];
            const bool inside = y >= 0 && y < w.input[1] && z >= 0 && z < w.input[0];
            const std::int64_t a = inside ? std::clamp(x0, s.begin, s.end) : s.end,
                               b = inside ? std::clamp(x1, a, s.end) : s.end;
            for (std::int64_t i = s.begin; i < a; ++i) to[i - s.begin] = T(0);
            if (a < b) {
              copy_run(plane + (z * w.input[1] + y) * w.input[2] + shift + a * w.stride[2], to + (a - s.begin), b - a,
                       w.stride[2]);
            }
            for (std::int64_t i = b; i < s.end; ++i) to[i - s.begin] = T(0);
            to += s.end - s.begin;
          }
        }
      }
    }
  }
}

}  // namespace

template <class T>
void image_to_columns(const Window& w, const T* image, std::int64_t channels, std::int64_t first, std::int64_t last,
                      T* columns, std::int64_t ld) {
  std::vector<Segment> segments;
  for (std::int64_t p = first; p < last;) {
    const std::int64_t line = p / w.output[2], begin = p - line * w.output[2];
    const std::int64_t end = std::min(w.output[2], begin + last - p);
    segments.push_back({line / w.output[1] * w.stride[0] - w.pad_begin[0],
                        line % w.output[1] * w.stride[1] - w.pad_begin[1], begin, end});
    p += end - begin;
  }
  with_widest_vectors([&]() QTOOL_INLINE { columns_of(w, image, channels, segments, columns, ld); });
}

template void image_to_columns(const Window&, const float*, std::int64_t, std::int64_t, std::int64_t, float*,
                               std::int64_t);
template void image_to_columns(const Window&, const double*, std::int64_t, std::int64_t, std::int64_t, double*,
                               std::int64_t);

template <class T>
void add_columns_to_image(const Window& w, const T* columns, std::int64_t channels, std::int64_t ld, T* image) {
  const T* row = columns;
  for (std::int64_t c = 0; c < channels; ++c) {
    T* plane = image + c * w.input_size();
    for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
      for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
        for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw, row += ld) {
          std::int64_t z0 = 0, z1 = 0, y0 = 0, y1 = 0, x0 = 0, x1 = 0;
          w.valid(0, kd, z0, z1);
          w.valid(1, kh, y0, y1);
          w.valid(2, kw, x0, x1);
          const std::int64_t shift = kw * w.dilation[2] - w.pad_begin[2];
          for (std::int64_t z = z0; z < z1; ++z) {
            const std::int64_t iz = z * w.stride[0] + kd * w.dilation[0] - w.pad_begin[0];
            for (std::int64_t y = y0; y < y1; ++y) {
              const std::int64_t iy = y * w.stride[1] + kh * w.dilation[1] - w.pad_begin[1];
              const T* from = row + (z * w.output[1] + y) * w.output[2];
              T* to = plane + (iz * w.input[1] + iy) * w.input[2] + shift;
              for (std::int64_t x = x0; x < x1; ++x) to[x * w.stride[2]] += from[x];
            }
          }
        }
      }
    }
  }
}

template void add_columns_to_image(const Window&, const float*, std::int64_t, std::int64_t, float*);
template void add_columns_to_image(const Window&, const double*, std::int64_t, std::int64_t, double*);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Operators that read an image at real coordinates: GridSample and RoiAlign.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

enum class Padding : std::uint8_t { zeros, border, reflection };
enum class Kind : std::uint8_t { nearest, linear, cubic };

/// Reflects x into [low, high], as often as needed.
double reflect(double x, double low, double high) {
  const double span = high - low;
  if (span <= 0) return low;
  double distance = x < low ? low - x : x - low;
  const double turns = std::floor(distance / span);
  distance -= turns * span;
  return std::fmod(turns, 2) == 0 ? low + distance : high - distance;
}

struct Sampler {
  Kind kind;
  Padding padding;
  bool align_corners;
  std::vector<std::int64_t> extents;  // spatial

  double pixel(double grid, std::int64_t size) const {
    const auto n = static_cast<double>(size);
    return align_corners ? (grid + 1) / 2 * (n - 1) : ((grid + 1) * n - 1) / 2;
  }
  /// The coordinate brought back into the image where the padding says so.
  double inside(double x, std::int64_t size) const {
    const auto n = static_cast<double>(size);
    if (padding == Padding::border) return std::clamp(x, 0.0, n - 1);
    if (padding == Padding::reflection) {
      return align_corners ? reflect(x, 0, n - 1) : std::clamp(reflect(x, -0.5, n - 0.5), 0.0, n - 1);
    }
    return x;
  }
  /// Taps and weights of one axis at pixel coordinate x; position -1: outside, counts as zero.
  std::size_t taps(double x, std::int64_t size, std::array<std::int64_t, 4>& positions,
                   std::array<double, 4>& weights) const {
    const auto place = [&](double p) {
      if (padding != Padding::zeros) p = inside(p, size);
      return p < 0 || p > static_cast<double>(size - 1) ? std::int64_t{-1} : static_cast<std::int64_t>(p);
    };
    if (kind == Kind::nearest) {
      positions[0] = place(std::nearbyint(inside(x, size)));
      weights[0] = 1;
      return 1;
    }
    if (kind == Kind::linear) x = inside(x, size);
    const double base = std::floor(x), ratio = x - base;
    if (kind == Kind::linear) {
      positions = {place(base), place(base + 1), 0, 0};
      weights = {1 - ratio, ratio, 0, 0};
      return 2;
    }
    constexpr double a = -0.75;
    const auto near = [](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    const auto far = [](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
    weights = {far(ratio + 1), near(ratio), near(1 - ratio), far(2 - ratio)};
    for (std::size_t i = 0; i < 4; ++i) positions[i] = place(base - 1 + static_cast<double>(i));
    return 4;
  }
};

template <class T>
void grid_sample(Threads& threads, const Sampler& s, const Tensor& x, const Tensor& grid, Tensor& y) {
  const std::size_t axes = s.extents.size();
  const std::int64_t channels = x.shape()[1], size = element_count(s.extents);
  const std::int64_t points = y.count() == 0 ? 0 : y.count() / (y.shape()[0] * channels);
  const T *from = x.read<T>().data(), *where = grid.read<T>().data();
  T* to = y.write<T>().data();
  threads.for_each(y.shape()[0] * points, 256, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::array<std::int64_t, 4>> positions(axes);
    std::vector<std::array<double, 4>> weights(axes);
    std::vector<std::int64_t> places;
    std::vector<double> shares;
    for (std::int64_t p = begin; p < end; ++p) {
      places.assign(1, 0);
      shares.assign(1, 1.0);
      // The grid lists the coordinates from the last axis to the first.
      for (std::size_t i = 0; i < axes; ++i) {
        const double g =
            static_cast<double>(where[p * static_cast<std::int64_t>(axes) + static_cast<std::int64_t>(axes - 1 - i)]);
        double pixel = s.pixel(g, s.extents[i]);
        if (!std::isfinite(pixel) || std::abs(pixel) > 1e15) pixel = -1e9;  // nothing there
        const std::size_t count = s.taps(pixel, s.extents[i], positions[i], weights[i]);
        std::vector<std::int64_t> next_places;
        std::vector<double> next_shares;
        for (std::size_t j = 0; j < places.size(); ++j) {
          for (std::size_t k = 0; k < count; ++k) {
            if (positions[i][k] < 0) continue;
            next_places.push_back(places[j] * s.extents[i] + positions[i][k]);
            next_shares.push_back(shares[j] * weights[i][k]);
          }
        }
        places.swap(next_places);
        shares.swap(next_shares);
      }
      const std::int64_t n = p / points;
      for (std::int64_t c = 0; c < channels; ++c) {
        const T* plane = from + (n * channels + c) * size;
        double sum = 0;
        for (std::size_t j = 0; j < places.size(); ++j) sum += shares[j] * static_cast<double>(plane[places[j]]);
        to[(n * channels + c) * points + p % points] = static_cast<T>(sum);
      }
    }
  });
}

void grid_sample_forward(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the image"), grid = compute_float(c.in(1), "the grid");
  const std::size_t rank = x.shape().size();
  require((rank == 4 || rank == 5) && grid.shape().size() == rank && grid.shape()[0] == x.shape()[0] &&
              grid.shape().back() == static_cast<std::int64_t>(rank - 2) && grid.dtype() == x.dtype(),
          "a grid of shape " + to_string(grid.shape()) + " does not fit an image of shape " + to_string(x.shape()));
  Sampler s{};
  const std::string mode = c.attrs().get("mode", c.opset >= 20 ? "linear" : "bilinear");
  const std::string padding = c.attrs().get("padding_mode", "zeros");
  s.kind = mode == "nearest" ? Kind::nearest : mode == "cubic" || mode == "bicubic" ? Kind::cubic : Kind::linear;
  s.padding = padding == "border" ? Padding::border : padding == "reflection" ? Padding::reflection : Padding::zeros;
  s.align_corners = c.attrs().get("align_corners", std::int64_t{0}) != 0;
  s.extents.assign(x.shape().begin() + 2, x.shape().end());
  Shape shape{x.shape()[0], x.shape()[1]};
  shape.insert(shape.end(), grid.shape().begin() + 1, grid.shape().end() - 1);
  Tensor y(x.dtype(), shape);
  if (x.count() > 0) {
    for_float_type(x.dtype(), [&](auto zero) { grid_sample<decltype(zero)>(c.threads, s, x, grid, y); });
  }
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void grid_sample_infer(InferContext& c) {
  Type t;
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  if (c.in(0).known_rank && c.in(1).known_rank && c.in(0).shape.size() == c.in(1).shape.size() &&
      c.in(0).shape.size() >= 3) {
    t.known_rank = true;
    t.shape = {c.in(0).shape[0], c.in(0).shape[1]};
    t.shape.insert(t.shape.end(), c.in(1).shape.begin() + 1, c.in(1).shape.end() - 1);
  }
  c.out(0, t);
}

/// Bilinear value at (y, x) as RoiAlign defines it: zero beyond one pixel outside, clamped to the border within.
template <class T>
struct Corners {
  std::array<std::int64_t, 4> places{};
  std::array<T, 4> weights{};
};

template <class T>
Corners<T> corners_of(T y, T x, std::int64_t height, std::int64_t width) {
  Corners<T> c;
  if (y < T(-1) || y > static_cast<T>(height) || x < T(-1) || x > static_cast<T>(width)) return c;
  y = std::max(y, T(0));
  x = std::max(x, T(0));
  auto y0 = std::min(static_cast<std::int64_t>(y), height - 1), x0 = std::min(static_cast<std::int64_t>(x), width - 1);
  const std::int64_t y1 = std::min(y0 + 1, height - 1), x1 = std::min(x0 + 1, width - 1);
  if (y0 == height - 1) y = static_cast<T>(y0);
  if (x0 == width - 1) x = static_cast<T>(x0);
  const T ly = y - static_cast<T>(y0), lx = x - static_cast<T>(x0), hy = T(1) - ly, hx = T(1) - lx;
  c.places = {y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1};
  c.weights = {hy * hx, hy * lx, ly * hx, ly * lx};
  return c;
}

template <class T>
void roi_align(const OpContext& c, const Tensor& x, const Tensor& rois, Tensor& out) {
  const std::int64_t channels = x.shape()[1], height = x.shape()[2], width = x.shape()[3];
  const std::int64_t oh = out.shape()[2], ow = out.shape()[3];
  const auto ratio = c.attrs().get("sampling_ratio", std::int64_t{0});
  const auto scale = static_cast<T>(c.attrs().get("spatial_scale", 1.0F));
  const bool take_max = c.attrs().get("mode", "avg") == "max";
  const bool half_pixel = c.attrs().get("coordinate_transformation_mode",
                                        c.opset >= 16 ? "half_pixel" : "output_half_pixel") == "half_pixel";
  const T offset = half_pixel ? T(0.5) : T(0);
  const std::vector<std::int64_t> batch = to_int64s(c.in(2));
  require(static_cast<std::int64_t>(batch.size()) == rois.shape()[0], "RoiAlign needs one batch index per region");
  const T *from = x.read<T>().data(), *boxes = rois.read<T>().data();
  T* to = out.write<T>().data();
  for (const std::int64_t b : batch) require(b >= 0 && b < x.shape()[0], "RoiAlign has a batch index out of range");
  c.threads.for_each(rois.shape()[0], 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Corners<T>> corners;
    for (std::int64_t r = begin; r < end; ++r) {
      const T x0 = boxes[r * 4] * scale - offset, y0 = boxes[r * 4 + 1] * scale - offset;
      T w = boxes[r * 4 + 2] * scale - offset - x0, h = boxes[r * 4 + 3] * scale - offset - y0;
      if (!half_pixel) {
        w = std::max(w, T(1));
        h = std::max(h, T(1));
      }
      const T bin_h = h / static_cast<T>(oh), bin_w = w / static_cast<T>(ow);
      const auto limit = [](T v) {
        return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(std::min(v, T(4096)))), 0, 4096);
      };
      const std::int64_t grid_h = ratio > 0 ? ratio : limit(bin_h), grid_w = ratio > 0 ? ratio : limit(bin_w);
      const T count = static_cast<T>(std::max<std::int64_t>(grid_h * grid_w, 1));
      for (std::int64_t p = 0; p < oh * ow; ++p) {
        const std::int64_t row = p / ow, column = p % ow;
        corners.clear();
        for (std::int64_t iy = 0; iy < grid_h; ++iy) {
          const T sy =
              y0 + static_cast<T>(row) * bin_h + (static_cast<T>(iy) + T(0.5)) * bin_h / static_cast<T>(grid_h);
          for (std::int64_t ix = 0; ix < grid_w; ++ix) {
            const T sx =
                x0 + static_cast<T>(column) * bin_w + (static_cast<T>(ix) + T(0.5)) * bin_w / static_cast<T>(grid_w);
            corners.push_back(corners_of(sy, sx, height, width));
          }
        }
        for (std::int64_t ch = 0; ch < channels; ++ch) {
          const T* plane = from + (batch[at(r)] * channels + ch) * height * width;
          T sum = 0, best = 0;
          bool first = true;
          for (const Corners<T>& k : corners) {
            T value = 0, largest = 0;
            for (std::size_t i = 0; i < 4; ++i) {
              const T part = k.weights[i] * plane[k.places[i]];
              value += part;
              largest = i == 0 ? part : std::max(largest, part);
            }
            sum += value;
            best = first ? largest : std::max(best, largest);
            first = false;
          }
          to[(r * channels + ch) * oh * ow + p] = take_max ? best : sum / count;
        }
      }
    }
  });
}

void roi_align_forward(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the image"), rois = compute_float(c.in(1), "the regions");
  require(x.rank() == 4 && rois.rank() == 2 && rois.shape()[1] == 4 && rois.dtype() == x.dtype(),
          "RoiAlign needs an image [N,C,H,W] and regions [count,4]");
  require(x.shape()[2] > 0 && x.shape()[3] > 0, "RoiAlign needs an image with pixels");
  const std::int64_t oh = c.attrs().get("output_height", std::int64_t{1}),
                     ow = c.attrs().get("output_width", std::int64_t{1});
  require(oh >= 1 && ow >= 1 && oh < 65536 && ow < 65536,
          "RoiAlign has an output of " + std::to_string(oh) + " x " + std::to_string(ow));
  require(c.attrs().get("sampling_ratio", std::int64_t{0}) <= 4096, "RoiAlign has a sampling_ratio above 4096");
  Tensor y(x.dtype(), {rois.shape()[0], x.shape()[1], oh, ow});
  for_float_type(x.dtype(), [&](auto zero) { roi_align<decltype(zero)>(c, x, rois, y); });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void roi_align_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  if (!c.in(0).known_rank || c.in(0).shape.size() != 4 || !c.in(1).known_rank || c.in(1).shape.empty()) {
    return c.out(0, c.in(0).dtype);
  }
  c.out(0, c.in(0).dtype,
        {c.in(1).shape[0], c.in(0).shape[1], c.attrs().get("output_height", std::int64_t{1}),
         c.attrs().get("output_width", std::int64_t{1})});
}

}  // namespace

constinit const OpDef GridSample{"GridSample", "", 16, grid_sample_infer, grid_sample_forward, nullptr};
constinit const OpDef RoiAlign{"RoiAlign", "", 10, roi_align_infer, roi_align_forward, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// AffineGrid (coordinates for GridSample) and MaxRoiPool (Girshick, 2015, arXiv:1504.08083).
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

// ---- AffineGrid(theta [N, axes, axes + 1], size [N, C, spatial...]): [N, spatial..., axes]

// Points of a grid; more is not an image but an attack on memory.
constexpr std::int64_t most_points = std::int64_t{1} << 32;

Shape grid_shape(const std::vector<std::int64_t>& size) {
  require(size.size() == 4 || size.size() == 5, "AffineGrid needs a size of four or five entries");
  Shape shape{size[0]};
  std::int64_t points = 1;
  for (std::size_t i = 0; i < size.size(); ++i) {
    require(size[i] >= 0 && (size[i] == 0 || points <= most_points / size[i]),
            "AffineGrid has a size of " + std::to_string(size[i]));
    if (i != 1) points *= size[i];
    if (i > 1) shape.push_back(size[i]);
  }
  shape.push_back(static_cast<std::int64_t>(size.size()) - 2);
  return shape;
}

void affine_grid(const OpContext& c) {
  const Tensor theta = compute_float(c.in(0), "theta");
  const Shape shape = grid_shape(to_int64s(c.in(1)));
  const std::int64_t axes = shape.back(), points = extent(shape, 1, axes + 1);
  require(theta.shape() == Shape{shape[0], axes, axes + 1}, "theta has the shape " + to_string(theta.shape()));
  const bool corners = c.attrs().get("align_corners", std::int64_t{0}) != 0;
  const auto coordinate = [corners](std::int64_t i, std::int64_t n) {
    const auto k = static_cast<double>(i), size = static_cast<double>(n);
    if (corners) return n == 1 ? -1.0 : -1 + 2 * k / (size - 1);
    return -1 + (2 * k + 1) / size;
  };
  Tensor y(theta.dtype(), shape);
  for_float_type(theta.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* matrices = theta.read<T>().data();
    T* to = y.write<T>().data();
    for_rows(c.threads, shape[0] * points, axes * axes, [&](std::int64_t row) {
      double at_point[4] = {1, 1, 1, 1};  // from the last axis to the first, then 1
      std::int64_t rest = row % points;
      for (std::int64_t d = 0; d < axes; ++d) {
        const std::int64_t n = shape[at(axes - d)];
        at_point[d] = coordinate(rest % n, n);
        rest /= n;
      }
      at_point[axes] = 1;
      for (std::int64_t i = 0; i < axes; ++i) {
        const T* m = matrices + (row / points * axes + i) * (axes + 1);
        double sum = 0;
        for (std::int64_t d = 0; d <= axes; ++d) sum += static_cast<double>(m[d]) * at_point[d];
        to[row * axes + i] = static_cast<T>(sum);
      }
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void affine_grid_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  if (c.constant(1)) c.out(0, c.in(0).dtype, grid_shape(to_int64s(c.constant(1))));
}

// ---- MaxRoiPool(image, regions [count, 5]: batch, x0, y0, x1, y1)

/// Entries [first, last) of bin i of `bins` over `size` pixels from `start` on, inside [0, limit).
struct Bin {
  std::int64_t first, last;
};
Bin bin_of(std::int64_t i, std::int64_t bins, std::int64_t start, std::int64_t size, std::int64_t limit) {
  const double width = static_cast<double>(size) / static_cast<double>(bins);
  const auto first = static_cast<std::int64_t>(std::floor(static_cast<double>(i) * width)),
             last = static_cast<std::int64_t>(std::ceil(static_cast<double>(i + 1) * width));
  return {std::clamp<std::int64_t>(first + start, 0, limit), std::clamp<std::int64_t>(last + start, 0, limit)};
}

Shape pooled_shape(const Attrs& attrs) {
  Shape s = attrs.get("pooled_shape", std::vector<std::int64_t>{});
  require(s.size() == 2 && s[0] > 0 && s[1] > 0 && s[0] < 65536 && s[1] < 65536,
          "MaxRoiPool has the pooled_shape " + to_string(s));
  return s;
}

void max_roi_pool(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the image"), regions = compute_float(c.in(1), "the regions");
  require(x.rank() == 4 && regions.rank() == 2 && regions.shape()[1] == 5 && regions.dtype() == x.dtype(),
          "MaxRoiPool needs an image [N,C,H,W] and regions [count,5]");
  const Shape pooled = pooled_shape(c.attrs());
  const float scale = c.attrs().get("spatial_scale", 1.0F);
  const std::int64_t channels = x.shape()[1], height = x.shape()[2], width = x.shape()[3];
  Tensor y(x.dtype(), {regions.shape()[0], channels, pooled[0], pooled[1]});
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *from = x.read<T>().data(), *boxes = regions.read<T>().data();
    T* to = y.write<T>().data();
    for_rows(c.threads, regions.shape()[0] * channels, pooled[0] * pooled[1] * 16, [&](std::int64_t row) {
      const T* box = boxes + row / channels * 5;
      const double batch = static_cast<double>(box[0]);
      require(batch >= 0 && batch < static_cast<double>(x.shape()[0]), "MaxRoiPool has a batch index out of range");
      const auto pixel = [&](int i) {
        return static_cast<std::int64_t>(std::round(std::clamp(box[i] * static_cast<T>(scale), T(-1e6), T(1e6))));
      };
      const std::int64_t x0 = pixel(1), y0 = pixel(2), w = std::max<std::int64_t>(pixel(3) - x0 + 1, 1),
                         h = std::max<std::int64_t>(pixel(4) - y0 + 1, 1);
      const T* plane = from + (static_cast<std::int64_t>(batch) * channels + row % channels) * height * width;
      for (std::int64_t p = 0; p < pooled[0] * pooled[1]; ++p) {
        const Bin v = bin_of(p / pooled[1], pooled[0], y0, h, height),
                  u = bin_of(p % pooled[1], pooled[1], x0, w, width);
        const bool empty = v.first >= v.last || u.first >= u.last;
        T best = empty ? T(0) : plane[v.first * width + u.first];
        for (std::int64_t i = v.first; i < v.last; ++i) {
          for (std::int64_t j = u.first; j < u.last; ++j) best = std::max(best, plane[i * width + j]);
        }
        to[row * pooled[0] * pooled[1] + p] = best;
      }
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void max_roi_pool_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  if (!c.in(0).known_rank || c.in(0).shape.size() != 4 || !c.in(1).known_rank || c.in(1).shape.empty()) return;
  const Shape pooled = pooled_shape(c.attrs());
  c.out(0, c.in(0).dtype, {c.in(1).shape[0], c.in(0).shape[1], pooled[0], pooled[1]});
}

}  // namespace

constinit const OpDef AffineGrid{"AffineGrid", "", 20, affine_grid_infer, affine_grid, nullptr};
constinit const OpDef MaxRoiPool{"MaxRoiPool", "", 1, max_roi_pool_infer, max_roi_pool, nullptr};

}  // namespace qtool::op

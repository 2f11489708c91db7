// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/problem.h"

#include <algorithm>

#include "calib/linalg.h"
#include "formats/number/half.h"
#include "passes/scales.h"

namespace qtool::solve {
namespace {

/// Whether scales may be chosen plane by plane.
bool is_free(const Weight& weight, const Layer::Planes& planes) {
  const QuantSpec& spec = *weight.spec;
  return !weight.has_scales && planes.own && planes.together && spec.scale_format == nullptr &&
         spec.alternative == nullptr && spec.second_group == 0;
}

Grid grid_of(const Weight& weight, std::int64_t i, const Layer::Planes& planes) {
  const QuantSpec& spec = *weight.spec;
  QuantSpec like = spec;
  const HalfScales stored(like, weight.half && is_free(weight, planes));
  Grid grid(like, weight.layer.rows(), planes.of);
  grid.set_centred(spec.symmetric && spec.format->lowest == 0 && !spec.zero_point.empty());
  const std::vector<float> scale = effective_scales(spec);
  const auto zero = spec.zero_point.empty() ? std::span<const std::int32_t>{} : spec.zero_point.read<std::int32_t>();
  for (std::int64_t p = 0; p < grid.planes(); ++p) {
    for (std::int64_t r = 0; r < grid.rows(); ++r) {
      const std::size_t at = weight.layer.scale(spec.grain, i, r, planes.columns[static_cast<std::size_t>(p)]);
      grid.scale(p)[static_cast<std::size_t>(r)] = scale[at];
      grid.zero(p)[static_cast<std::size_t>(r)] = zero.empty() ? 0.0F : static_cast<float>(zero[at]);
    }
  }
  return grid;
}

template <class T>
void store_codes(const Layer& layer, std::int64_t i, const Solved& solved, Tensor& to) {
  const auto codes = to.write<T>();
  const std::int64_t m = layer.rows();
  for (std::int64_t c = 0; c < layer.columns(); ++c) {
    for (std::int64_t r = 0; r < m; ++r) {
      codes[layer.element(i, r, c)] = static_cast<T>(solved.codes[static_cast<std::size_t>(c * m + r)]);
    }
  }
}

}  // namespace

const Conditioned& Factors::of(Order order, std::int64_t group) {
  if (order != Order::gar) group = 0;
  for (const auto& [key, made] : made_) {
    if (key == std::pair(order, group)) return made;
  }
  made_.emplace_back(std::pair(order, group), condition(threads_, h_, rows_, damp_, order, group));
  return made_.back().second;
}

Problem::Problem(Threads& pool, const Weight& target, std::int64_t i, const Tensor& hessian)
    : threads(pool),
      weight(target),
      matrix(i),
      m(weight.layer.rows()),
      n(weight.layer.columns()),
      planes(weight.layer.planes(weight.spec->grain)),
      w(weight.layer.by_columns(weight.weight.read<float>(), i)),
      h(hessian.empty() ? std::span<const double>{} : hessian.read<double>()),
      free(is_free(weight, planes)),
      group(planes.columns.size() > 1 ? planes.columns[1] - planes.columns[0] : 0),
      blank(grid_of(weight, i, planes)) {}

void Problem::fit(const Clip& clip, Grid& grid) const {
  for (std::int64_t p = 0; p < grid.planes(); ++p) {
    const std::int64_t begin = planes.columns[static_cast<std::size_t>(p)];
    const std::int64_t end = p + 1 < grid.planes() ? planes.columns[static_cast<std::size_t>(p + 1)] : n;
    const std::int64_t width = end - begin;
    std::vector<double> part;
    if (!h.empty() && width != n) {
      part.resize(static_cast<std::size_t>(width * width));
      for (std::int64_t a = 0; a < width; ++a)
        std::copy_n(h.data() + (begin + a) * n + begin, width, part.data() + a * width);
    }
    const double* own = h.empty() ? nullptr : width == n ? h.data() : part.data();
    threads.for_each(m, 64, [&](std::int64_t first, std::int64_t last) {
      grid.fit(p, first, last - first, width, w.data() + begin * m + first, m, own, clip);
    });
  }
}

Solved Problem::nearest(const Grid& grid) const {
  Solved s;
  s.codes.resize(w.size());
  s.values.resize(w.size());
  for (std::int64_t c = 0; c < n; ++c)
    grid.nearest(c, 0, m, w.data() + c * m, s.codes.data() + c * m, s.values.data() + c * m);
  return s;
}

void Problem::start(bool clipped, Found& found) const {
  found.solved.loss = errors(found.solved.values);
  if (!free || !clipped) return;
  Found other{blank, {}};
  fit({Clip::Kind::block}, other.grid);
  other.solved = nearest(other.grid);
  other.solved.loss = errors(other.solved.values);
  take_better(other, found);
}

std::vector<float> Problem::units(const Grid& grid) const {
  const auto rows = static_cast<std::size_t>(m), columns = static_cast<std::size_t>(n);
  double mean = 0;
  for (std::size_t c = 0; c < columns; ++c) mean += h[c * columns + c] / static_cast<double>(columns);
  std::vector<float> unit(rows);
  for (std::size_t c = 0; c < columns; ++c) {
    const auto scale = grid.scale(grid.plane(static_cast<std::int64_t>(c)));
    for (std::size_t r = 0; r < rows; ++r) {
      unit[r] += scale[r] * scale[r] * static_cast<float>(mean) / static_cast<float>(columns);
    }
  }
  return unit;
}

std::vector<double> Problem::errors(std::span<const float> values, std::int64_t rows) const {
  if (rows == 0 || rows > m) rows = m;
  BlockVector<double> e(static_cast<std::size_t>(n * rows)), g(e.size());
  std::vector<double> sums(static_cast<std::size_t>(rows));
  for (std::int64_t c = 0; c < n; ++c) {
    for (std::int64_t k = 0; k < rows; ++k) {
      const auto from = static_cast<std::size_t>(c * m + k * m / rows);
      const double value = values.empty() ? 0.0 : static_cast<double>(values[from]);
      e[static_cast<std::size_t>(c * rows + k)] = value - static_cast<double>(w[from]);
    }
  }
  gemm(threads, false, false, n, rows, n, 1.0, h.data(), n, e.data(), rows, 0.0, g.data(), rows);
  for (std::size_t at = 0; at < e.size(); ++at) sums[at % static_cast<std::size_t>(rows)] += e[at] * g[at];
  return sums;
}

float Problem::stored(float scale) const { return weight.half ? f16_to_float(float_to_f16(scale)) : scale; }

void Problem::store(const Found& found, bool codes, QuantSpec& spec) const {
  const Layer& layer = weight.layer;
  if (codes) {
    switch (spec.codes.dtype()) {
      case DType::i8: store_codes<std::int8_t>(layer, matrix, found.solved, spec.codes); break;
      case DType::u8: store_codes<std::uint8_t>(layer, matrix, found.solved, spec.codes); break;
      default: store_codes<std::uint16_t>(layer, matrix, found.solved, spec.codes);
    }
  }
  if (!free) return;
  const auto scale = spec.scale.write<float>();
  const auto zero = spec.zero_point.empty() ? std::span<std::int32_t>{} : spec.zero_point.write<std::int32_t>();
  for (std::int64_t p = 0; p < found.grid.planes(); ++p) {
    for (std::int64_t r = 0; r < m; ++r) {
      const std::size_t at = layer.scale(spec.grain, matrix, r, planes.columns[static_cast<std::size_t>(p)]);
      scale[at] = found.grid.scale(p)[static_cast<std::size_t>(r)];
      if (!zero.empty()) zero[at] = static_cast<std::int32_t>(found.grid.zero(p)[static_cast<std::size_t>(r)]);
    }
  }
}

void regroup(std::int64_t group, QuantSpec& spec) {
  if (group > 0 && spec.grain.kind == Grain::Kind::groups && spec.scale.empty()) spec.grain.group = group;
}

void prepare(std::int64_t group, Weight& weight) {
  QuantSpec& spec = *weight.spec;
  regroup(group, spec);
  if (!spec.scale.empty()) return;
  QuantSpec whole = spec;
  whole.codes = Tensor();
  {
    const HalfScales stored(whole, weight.half);
    choose_scales(whole, weight.weight);  // for grains and schemes whose scales are not chosen row by row
  }
  spec.scale = whole.scale;
  spec.zero_point = whole.zero_point;
  spec.second_scale = whole.second_scale;
  spec.scale_mean = whole.scale_mean;
}

std::int64_t take_better(const Found& from, Found& to) {
  const std::int64_t m = to.grid.rows(), n = static_cast<std::int64_t>(to.solved.codes.size()) / m;
  std::int64_t better = 0;
  for (std::int64_t r = 0; r < m; ++r) {
    const auto row = static_cast<std::size_t>(r);
    if (!(from.solved.loss[row] < to.solved.loss[row])) continue;
    ++better;
    to.solved.loss[row] = from.solved.loss[row];
    to.grid.take_row(from.grid, r);
    for (std::int64_t c = 0; c < n; ++c) {
      const auto at = static_cast<std::size_t>(c * m + r);
      to.solved.codes[at] = from.solved.codes[at];
      to.solved.values[at] = from.solved.values[at];
    }
  }
  return better;
}

}  // namespace qtool::solve

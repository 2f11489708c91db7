// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool::solve {
namespace {

constexpr std::int64_t widest_block = 1024;

/// round_half_even(clamp(v)) for bounds that are small integers; NaN becomes 0.
template <class T>
QTOOL_INLINE inline T level(T v, T low, T high) {
  constexpr T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^23, 1.5 * 2^52
  v = v == v ? v : T(0);
  v = v < low ? low : v;
  v = v > high ? high : v;
  return (v + magic) - magic;
}

template <class T>
void nearest_integers(std::int64_t count, const T* w, const float* scale, const float* zero, float lowest,
                      float highest, std::int16_t* codes, T* values) {
  with_widest_vectors([&]() QTOOL_INLINE {
    QTOOL_INDEPENDENT
    for (std::int64_t i = 0; i < count; ++i) {
      const T l = level(w[i] / T(scale[i]), T(lowest - zero[i]), T(highest - zero[i]));
      values[i] = T(static_cast<float>(l) * scale[i]);
      codes[i] = static_cast<std::int16_t>(static_cast<std::int32_t>(l + T(zero[i])));
    }
  });
}

/// Codes and float values have the types of Nearest: other ones are converted piece by piece.
template <class T>
void nearest_reals(const Nearest& nearest, std::int64_t count, const T* w, const float* scale, std::int16_t* codes,
                   T* values) {
  constexpr std::int64_t piece = 512;
  float x[piece], value[piece];
  std::uint16_t code[piece];
  for (std::int64_t from = 0; from < count; from += piece) {
    const std::int64_t n = std::min(piece, count - from);
    for (std::int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(w[from + i]);
    Column column;
    column.count = n;
    column.x = x;
    column.scale = scale + from;
    column.value = value;
    column.code = code;
    nearest.round(column);
    for (std::int64_t i = 0; i < n; ++i) {
      codes[from + i] = static_cast<std::int16_t>(code[i]);
      values[from + i] = T(value[i]);
    }
  }
}

}  // namespace

Grid::Grid(const QuantSpec& like, std::int64_t m, std::vector<std::int32_t> plane_of)
    : like_(like),
      m_(m),
      planes_(plane_of.empty() ? 0 : *std::max_element(plane_of.begin(), plane_of.end()) + 1),
      plane_of_(std::move(plane_of)),
      scale_(static_cast<std::size_t>(planes_ * m), 1.0F),
      zero_(static_cast<std::size_t>(planes_ * m)),
      lowest_(like.format->lowest + (like.narrow ? 1.0F : 0.0F)),
      highest_(like.format->highest) {
  if (!like.format->is_integer) reals_ = std::make_shared<const Nearest>(*like.format, like.narrow, like.alternative);
  like_.scale = like_.zero_point = like_.minimum = like_.codes = Tensor();
}

void Grid::fit(std::int64_t plane, std::int64_t first, std::int64_t rows, std::int64_t columns, const float* w,
               std::int64_t ld, const double* h, const Clip& clip) {
  const auto n = static_cast<std::size_t>(rows);
  std::vector<float> low(n), high(n), a(n), b(n);
  for (std::int64_t c = 0; c < columns; ++c) {
    const float* column = w + c * ld;
    for (std::size_t r = 0; r < n; ++r) {
      low[r] = std::min(low[r], column[r]);
      high[r] = std::max(high[r], column[r]);
    }
  }
  QuantSpec spec = like_;
  spec.grain = {Grain::Kind::axis, 0, 0, 0};
  const Shape shape{rows};
  std::vector<float> effective;
  const auto choose = [&](std::vector<float>& lo, std::vector<float>& hi) {
    const bool lean = centred_ && std::none_of(lo.begin(), lo.end(), [](float v) { return v < 0; });
    const auto positive = std::find_if(hi.begin(), hi.end(), [](float v) { return v > 0; });
    if (lean && positive != hi.end()) {
      lo[static_cast<std::size_t>(positive - hi.begin())] = -std::numeric_limits<float>::denorm_min();
    }
    set_scales(spec, lo, hi, shape);
    effective = effective_scales(spec);
  };
  const auto take = [&](std::size_t r) {
    const auto at = static_cast<std::size_t>(plane * m_ + first) + r;
    scale_[at] = effective[r];
    zero_[at] = spec.zero_point.empty() ? 0.0F : static_cast<float>(spec.zero_point.read<std::int32_t>()[r]);
  };
  if (clip.kind == Clip::Kind::minmax) {
    choose(low, high);
    for (std::size_t r = 0; r < n; ++r) take(r);
    return;
  }
  std::vector<double> least(n, std::numeric_limits<double>::infinity());
  std::vector<double> errors(n);
  std::vector<float> e(n * static_cast<std::size_t>(columns)), value(n), best(n, 1.0F), kept_scale(n), kept_zero(n);
  std::vector<std::int16_t> codes(n);
  const auto at = static_cast<std::size_t>(plane * m_ + first);
  for (int p = 0; p < clip.points; ++p) {
    const float share =
        clip.most - (clip.most - clip.least) * static_cast<float>(p) / static_cast<float>(std::max(1, clip.points));
    for (std::size_t r = 0; r < n; ++r) a[r] = low[r] * share, b[r] = high[r] * share;
    choose(a, b);
    for (std::size_t r = 0; r < n; ++r) take(r);
    std::fill(errors.begin(), errors.end(), 0.0);
    for (std::int64_t c = 0; c < columns; ++c) {
      float* to = e.data() + static_cast<std::size_t>(c) * n;
      const float* column = w + c * ld;
      nearest_in(plane, first, rows, column, codes.data(), value.data());
      const double weight = clip.kind == Clip::Kind::mse || h == nullptr ? 1.0 : h[c * columns + c];
      for (std::size_t r = 0; r < n && clip.power != 2; ++r) {
        errors[r] += weight * std::pow(std::abs(static_cast<double>(value[r]) - column[r]), clip.power);
      }
      if (clip.power != 2) continue;
      with_widest_vectors([&]() QTOOL_INLINE {
        QTOOL_INDEPENDENT
        for (std::size_t r = 0; r < n; ++r) {
          to[r] = value[r] - column[r];
          errors[r] += weight * static_cast<double>(to[r]) * static_cast<double>(to[r]);
        }
      });
    }
    if (clip.kind == Clip::Kind::block &&
        columns <= widest_block) {  // the other half: twice the products of two different columns
      for (std::int64_t c = 1; c < columns; ++c) {
        const float* one = e.data() + static_cast<std::size_t>(c) * n;
        std::fill(value.begin(), value.end(), 0.0F);
        with_widest_vectors([&]() QTOOL_INLINE {
          for (std::int64_t k = 0; k < c; ++k) {
            const float* other = e.data() + static_cast<std::size_t>(k) * n;
            const auto x = static_cast<float>(2 * h[k * columns + c]);
            QTOOL_INDEPENDENT
            for (std::size_t r = 0; r < n; ++r) value[r] += x * other[r];
          }
          QTOOL_INDEPENDENT
          for (std::size_t r = 0; r < n; ++r) {
            errors[r] += static_cast<double>(value[r]) * static_cast<double>(one[r]);
          }
        });
      }
    }
    for (std::size_t r = 0; r < n; ++r) {
      if (errors[r] < least[r]) {
        least[r] = errors[r];
        kept_scale[r] = scale_[at + r];
        kept_zero[r] = zero_[at + r];
      }
    }
  }
  std::copy(kept_scale.begin(), kept_scale.end(), scale_.begin() + static_cast<std::ptrdiff_t>(at));
  std::copy(kept_zero.begin(), kept_zero.end(), zero_.begin() + static_cast<std::ptrdiff_t>(at));
}

void Grid::take_row(const Grid& other, std::int64_t r) {
  for (std::int64_t p = 0; p < planes_; ++p) {
    const auto at = static_cast<std::size_t>(p * m_ + r);
    scale_[at] = other.scale_[at];
    zero_[at] = other.zero_[at];
  }
}

template <class T>
void Grid::nearest_in(std::int64_t plane, std::int64_t first, std::int64_t count, const T* w, std::int16_t* codes,
                      T* values) const {
  const auto at = static_cast<std::size_t>(plane * m_ + first);
  if (like_.format->is_integer) {
    nearest_integers(count, w, &scale_[at], &zero_[at], lowest_, highest_, codes, values);
  } else {
    nearest_reals(*reals_, count, w, &scale_[at], codes, values);
  }
}

template void Grid::nearest_in(std::int64_t, std::int64_t, std::int64_t, const float*, std::int16_t*, float*) const;
template void Grid::nearest_in(std::int64_t, std::int64_t, std::int64_t, const double*, std::int16_t*, double*) const;

}  // namespace qtool::solve

// SPDX-License-Identifier: Apache-2.0
#include "calib/data/image.h"

#include <algorithm>
#include <cmath>

#include "formats/base/error.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Weights of the input pixels that make one output pixel, in 1/2^22 (Pillow's Resample.c).
struct Taps {
  std::int64_t first = 0;
  std::vector<std::int32_t> weights;
};
constexpr int precision = 22;

/// To the nearest, halves up.
std::int64_t rounded(double v) { return static_cast<std::int64_t>(std::floor(v + 0.5)); }

std::vector<Taps> taps_of(std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out), widen = std::max(scale, 1.0);
  std::vector<Taps> all(index(out));
  for (std::int64_t i = 0; i < out; ++i) {
    Taps& t = all[index(i)];
    const double center = (static_cast<double>(i) + 0.5) * scale;
    t.first = std::max<std::int64_t>(0, rounded(center - widen));
    const std::int64_t last = std::min(in, rounded(center + widen));
    std::vector<double> w;
    double sum = 0;
    for (std::int64_t x = t.first; x < last; ++x) {
      w.push_back(std::max(0.0, 1.0 - std::fabs((static_cast<double>(x) - center + 0.5) * (1.0 / widen))));
      sum += w.back();
    }
    for (const double v : w) {
      t.weights.push_back(static_cast<std::int32_t>(rounded((sum != 0 ? v / sum : v) * (1 << precision))));
    }
  }
  return all;
}

std::uint8_t clip(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> precision, 0, 255)); }

}  // namespace

Picture resize(const Picture& p, std::int64_t width, std::int64_t height) {
  QTOOL_ENSURE(p.width > 0 && p.height > 0 && width > 0 && height > 0, "pictures have pixels");
  constexpr std::int32_t half = 1 << (precision - 1);
  Picture across;
  if (width == p.width) {
    across = p;
  } else {
    across = {width, p.height, std::vector<std::uint8_t>(index(width * p.height * 3))};
    const std::vector<Taps> taps = taps_of(p.width, width);
    for (std::int64_t y = 0; y < p.height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        const Taps& t = taps[index(x)];
        for (std::int64_t c = 0; c < 3; ++c) {
          std::int32_t sum = half;
          for (std::size_t k = 0; k < t.weights.size(); ++k) {
            sum += t.weights[k] * p.rgb[index((y * p.width + t.first) * 3 + c) + 3 * k];
          }
          across.rgb[index((y * width + x) * 3 + c)] = clip(sum);
        }
      }
    }
  }
  if (height == p.height) return across;
  Picture out{width, height, std::vector<std::uint8_t>(index(width * height * 3))};
  const std::vector<Taps> taps = taps_of(p.height, height);
  const std::size_t stride = index(width * 3);
  for (std::int64_t y = 0; y < height; ++y) {
    const Taps& t = taps[index(y)];
    for (std::size_t x = 0; x < stride; ++x) {
      std::int32_t sum = half;
      for (std::size_t k = 0; k < t.weights.size(); ++k) {
        sum += t.weights[k] * across.rgb[(index(t.first) + k) * stride + x];
      }
      out.rgb[index(y) * stride + x] = clip(sum);
    }
  }
  return out;
}

Picture resize_shorter(const Picture& p, std::int64_t side) {
  const std::int64_t shorter = std::min(p.width, p.height), longer = std::max(p.width, p.height);
  const std::int64_t other = std::max<std::int64_t>(1, side * longer / shorter);
  return p.width <= p.height ? resize(p, side, other) : resize(p, other, side);
}

Picture crop_center(const Picture& p, std::int64_t width, std::int64_t height) {
  QTOOL_ENSURE(width <= p.width && height <= p.height, "a crop lies inside the picture");
  const auto left = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(p.width - width) / 2));
  const auto top = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(p.height - height) / 2));
  Picture out{width, height, std::vector<std::uint8_t>(index(width * height * 3))};
  for (std::int64_t y = 0; y < height; ++y) {
    const auto from = p.rgb.begin() + ((top + y) * p.width + left) * 3;
    std::copy(from, from + width * 3, out.rgb.begin() + y * width * 3);
  }
  return out;
}

std::vector<std::uint8_t> gray(const Picture& p) {
  std::vector<std::uint8_t> out(index(p.width * p.height));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint32_t r = p.rgb[3 * i], g = p.rgb[3 * i + 1], b = p.rgb[3 * i + 2];
    out[i] = static_cast<std::uint8_t>((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16);
  }
  return out;
}

}  // namespace qtool

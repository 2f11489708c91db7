// SPDX-License-Identifier: Apache-2.0
#include "formats/base/widest.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "calib/ops/slide.h"
#include "calib/ops/vector_math.h"
#include "formats/base/rng.h"

namespace qtool {
namespace {

std::vector<Vectors> available() {
  std::vector<Vectors> out;
  for (const Vectors v : {Vectors::sse, Vectors::avx2, Vectors::avx512}) {
    if (v <= widest_available()) out.push_back(v);
  }
  return out;
}

std::vector<float> random_values(std::size_t count, float scale) {
  const Rng rng(5, "widest_test");
  std::vector<float> x(count);
  for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<float>(rng.normal(i)) * scale;
  return x;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Window square_window(std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t pad) {
  Attrs attrs;
  attrs.set("strides", std::vector<std::int64_t>{stride, stride});
  attrs.set("pads", std::vector<std::int64_t>{pad, pad, pad, pad});
  return window_of(attrs, {1, 1, size, size}, {kernel, kernel});
}

float tap_by_tap(const Window& w, const std::vector<float>& x, const std::vector<float>& k, std::int64_t i) {
  float sum = 0.5F;
  const std::int64_t oy = i / w.output[2], ox = i % w.output[2];
  for (std::int64_t ky = 0; ky < w.kernel[1]; ++ky) {
    for (std::int64_t kx = 0; kx < w.kernel[2]; ++kx) {
      const std::int64_t y = oy * w.stride[1] + ky - w.pad_begin[1], z = ox * w.stride[2] + kx - w.pad_begin[2];
      if (y < 0 || y >= w.input[1] || z < 0 || z >= w.input[2]) continue;
      sum += x[static_cast<std::size_t>(y * w.input[2] + z)] * k[static_cast<std::size_t>(ky * w.kernel[2] + kx)];
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("widest vectors: exp, logistic and tanh give the same bits at every width") {
  std::vector<float> x = random_values(4099, 30.0F);
  x[0] = std::numeric_limits<float>::quiet_NaN();
  x[1] = std::numeric_limits<float>::infinity();
  x[2] = -x[1];
  std::vector<std::vector<float>> results;
  for (const Vectors v : available()) {
    std::vector<float> y(3 * x.size());
    with_vectors(v, [&]() QTOOL_INLINE {
      const std::size_t n = x.size();
      for (std::size_t i = 0; i < n; ++i) y[i] = vector_math::exp(x[i]);
      for (std::size_t i = 0; i < n; ++i) y[n + i] = vector_math::logistic(x[i]);
      for (std::size_t i = 0; i < n; ++i) y[2 * n + i] = vector_math::tanh(x[i]);
    });
    results.push_back(y);
  }
  for (std::size_t i = 1; i < results.size(); ++i) {
    // NaN in, NaN out; which NaN is nobody's business.
    for (const std::size_t part : {std::size_t{0}, x.size(), 2 * x.size()}) {
      CHECK(std::isnan(results[i][part]));
      results[i][part] = results[0][part];
    }
    CHECK(same_bits(results[i], results[0]));
  }
}

TEST_CASE("vector math: close to the exact values, right at the ends") {
  for (const float x : random_values(2000, 8.0F)) {
    const auto v = static_cast<double>(x);
    CHECK(std::abs(static_cast<double>(vector_math::exp(x)) / std::exp(v) - 1) < 1.2e-7);
    CHECK(std::abs(static_cast<double>(vector_math::tanh(x)) / std::tanh(v) - 1) < 1.6e-7);
    CHECK(std::abs(static_cast<double>(vector_math::logistic(x)) * (1 + std::exp(-v)) - 1) < 2.6e-7);
  }
  CHECK(vector_math::exp(0.0F) == 1.0F);
  CHECK(vector_math::exp(200.0F) == std::numeric_limits<float>::infinity());
  CHECK(vector_math::exp(-200.0F) == 0.0F);
  CHECK(vector_math::tanh(50.0F) == 1.0F);
  CHECK(vector_math::logistic(-500.0F) == 0.0F);
}

TEST_CASE("slide: small and large images, both strides, agree with one tap after the other at every width") {
  for (const std::int64_t size : {3, 7, 17, 40, 53, 70}) {
    for (const std::int64_t stride : {1, 2, 3}) {
      for (const std::int64_t kernel : {1, 3, 5}) {
        const Window w = square_window(size, kernel, stride, kernel / 2);
        const std::vector<float> x = random_values(static_cast<std::size_t>(w.input_size()), 1.0F);
        const std::vector<float> k = random_values(static_cast<std::size_t>(w.kernel_size()), 0.5F);
        std::vector<float> expected(static_cast<std::size_t>(w.output_size()));
        for (std::size_t i = 0; i < expected.size(); ++i)
          expected[i] = tap_by_tap(w, x, k, static_cast<std::int64_t>(i));
        for (const Vectors v : available()) {
          std::vector<float> y(expected.size()), scratch;
          with_vectors(
              v, [&]() QTOOL_INLINE { Slide<AddProduct, float>(w, x.data(), k.data(), 0.5F, y.data()).run(scratch); });
          CAPTURE(size);
          CAPTURE(stride);
          CAPTURE(kernel);
          CHECK(same_bits(y, expected));
        }
      }
    }
  }
}

}  // namespace qtool

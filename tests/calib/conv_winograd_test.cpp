// SPDX-License-Identifier: Apache-2.0
// Minimal filtering against a matrix of columns in double, and the promises on bits and on what is not finite.
#include "calib/ops/conv_winograd.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "calib/executor.h"
#include "calib/ops/conv_direct.h"
#include "calib/ops/winograd_transforms.h"
#include "formats/ir/text.h"
#include "tests/calib/conv_problem.h"

namespace qtool::test {
namespace {

std::vector<float> filtered(const Problem& p, Vectors vectors, int thread_count) {
  Threads threads(thread_count);
  std::vector<float> y(p.outputs(), -1.0F), transformed(static_cast<std::size_t>(36 * p.c.inputs * (p.c.outputs + 15)));
  transform_kernel(p.c, p.kernel.data(), transformed.data());
  convolve_by_winograd(threads, p.c, p.x.data(), p.kernel.data(), transformed.data(), p.biases(), y.data(), vectors);
  return y;
}

std::vector<float> direct(const Problem& p) {
  Threads threads(1);
  std::vector<float> y(p.outputs());
  convolve_directly(threads, p.c, p.x.data(), p.kernel.data(), p.biases(), y.data());
  return y;
}

Convolution convolution(const Shape& image, std::int64_t outputs, const Ints& pads) {
  Attrs attrs;
  attrs.set("pads", pads);
  return convolution_of(attrs, image, {outputs, image[1], 3, 3});
}

void fill(Problem& p, const Rng& rng) {
  p.x = normal(rng, p.c.batch * p.c.inputs * p.c.window.input_size(), 1);
  p.kernel = normal(rng, p.c.outputs * p.c.depth(), 2);
}

/// The same on every run: shapes around the edges of tiles, panels, runs and blocks.
Problem problem(std::uint64_t number) {
  const Rng rng(21, "conv_winograd_test", std::to_string(number));
  std::uint64_t draw = 0;
  const auto pick = [&](std::initializer_list<std::int64_t> from) {
    return from.begin()[rng.bits(draw++) % from.size()];
  };
  Problem p;
  do {
    const Shape image{pick({1, 1, 2, 3}), pick({1, 3, 8, 16, 17, 33, 64}), pick({1, 2, 4, 7, 8, 13, 20, 33}),
                      pick({1, 3, 6, 7, 8, 13, 16, 17, 40, 67, 131})};
    const Ints pads{pick({0, 1, 2, 5}), pick({0, 1, 2, 9}), pick({0, 1, 3}), pick({0, 1, 3, 6})};
    if (image[2] + pads[0] + pads[2] < 3 || image[3] + pads[1] + pads[3] < 3) continue;
    p.c = convolution(image, pick({1, 2, 8, 9, 16, 23, 40, 64, 80}), pads);
  } while (p.c.batch == 0 || !convolves_directly(p.c));
  fill(p, rng);
  if (pick({0, 1}) == 1) p.bias = normal(rng, p.c.outputs, 3);
  return p;
}

double worst_error(const Problem& p, const std::vector<float>& y) {
  const std::vector<double> expected = p.by_columns(false);
  double worst = 0, range = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - expected[i]));
    range = std::max(range, std::abs(expected[i]));
  }
  return worst / range;
}

}  // namespace

TEST_CASE("minimal filtering: the transforms give four outputs of three taps") {
  const Rng rng(22, "conv_winograd_test");
  double d[6], g[3], u[6], v[6], y[4];
  for (std::uint64_t i = 0; i < 6; ++i) d[i] = rng.normal(i);
  for (std::uint64_t i = 0; i < 3; ++i) g[i] = rng.normal(10 + i);
  winograd::transform_input(d, v);
  winograd::transform_kernel(g, u);
  for (std::size_t i = 0; i < 6; ++i) v[i] *= u[i];
  winograd::transform_output(v, y);
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(y[i] - (d[i] * g[0] + d[i + 1] * g[1] + d[i + 2] * g[2])) < 1e-14);
}

TEST_CASE("minimal filtering: random shapes agree with a matrix of columns in double") {
  if (widest_available() < Vectors::avx2) return;  // there are no tiles here
  for (std::uint64_t number = 0; number < 300; ++number) {
    const Problem p = problem(number);
    CAPTURE(number);
    CAPTURE(describe(p.c));
    CHECK(worst_error(p, filtered(p, widest_available(), 1)) < 3e-6);
  }
}

TEST_CASE("minimal filtering: the error of many channels stays far below 1e-5 of the range") {
  if (widest_available() < Vectors::avx2) return;
  for (const std::int64_t channels : {64, 256, 1024}) {
    Problem p;
    p.c = convolution({1, channels, 17, 19}, 32, {1, 1, 1, 1});
    fill(p, Rng(23, "conv_winograd_test"));
    for (float& v : p.x) v = std::max(v, 0.0F);  // as behind a Relu: sums that cancel less
    CAPTURE(channels);
    CHECK(worst_error(p, filtered(p, widest_available(), 2)) < 5e-6);
  }
}

TEST_CASE("minimal filtering: bits do not depend on threads, vectors or the batch") {
  if (widest_available() < Vectors::avx2) return;
  for (std::uint64_t number = 0; number < 120; ++number) {
    const Problem p = problem(number);
    const std::vector<float> y = filtered(p, widest_available(), 1);
    CAPTURE(describe(p.c));
    CHECK(same_bits(y, filtered(p, widest_available(), 3).data()));
    CHECK(same_bits(y, filtered(p, Vectors::avx2, 1).data()));
    for (std::int64_t n = 0; n < p.c.batch; ++n) {
      const Problem one = p.image(n);
      CHECK(same_bits(filtered(one, widest_available(), 2), y.data() + one.outputs() * static_cast<std::size_t>(n)));
    }
  }
}

TEST_CASE("minimal filtering: an image with results that are not finite is convolved directly, others are not") {
  if (widest_available() < Vectors::avx2) return;
  constexpr float largest = std::numeric_limits<float>::max(), infinite = std::numeric_limits<float>::infinity();
  for (const float odd : {infinite, -infinite, std::numeric_limits<float>::quiet_NaN(), largest, -0.5F * largest}) {
    for (const std::int64_t at : {0, 7, 20 * 23 - 1}) {
      Problem p;
      p.c = convolution({3, 20, 20, 23}, 24, {1, 1, 1, 1});
      fill(p, Rng(24, "conv_winograd_test"));
      for (float& k : p.kernel) k *= 0.1F;  // so that the largest float stays finite, convolved directly
      const std::vector<float> usual = filtered(p, widest_available(), 1);
      p.x[static_cast<std::size_t>((20 + 13) * 20 * 23 + at)] = odd;  // in image 1
      const std::vector<float> y = filtered(p, widest_available(), 2), expected = direct(p);
      const std::size_t image = y.size() / 3;
      CAPTURE(odd);
      CAPTURE(at);
      CHECK(std::equal(y.begin(), y.begin() + static_cast<std::ptrdiff_t>(image), usual.begin()));
      CHECK(same_bits(
          {y.begin() + static_cast<std::ptrdiff_t>(image), y.begin() + static_cast<std::ptrdiff_t>(2 * image)},
          expected.data() + image));
      CHECK(same_bits({y.begin() + static_cast<std::ptrdiff_t>(2 * image), y.end()}, usual.data() + 2 * image));
    }
  }
}

TEST_CASE("minimal filtering: left to what it is for") {
  const auto chosen = [](const Shape& image, std::int64_t outputs, std::int64_t group, std::int64_t stride) {
    Attrs attrs;
    attrs.set("pads", Ints{1, 1, 1, 1});
    attrs.set("group", group);
    attrs.set("strides", Ints{stride, stride});
    return convolves_by_winograd(convolution_of(attrs, image, {outputs, image[1] / group, 3, 3}));
  };
  const bool tiles = widest_available() >= Vectors::avx2;
  CHECK(chosen({1, 64, 56, 56}, 64, 1, 1) == tiles);
  CHECK(chosen({1, 32, 27, 27}, 128, 1, 1) == tiles);
  CHECK_FALSE(chosen({1, 64, 56, 56}, 64, 1, 2));
  CHECK_FALSE(chosen({1, 64, 56, 56}, 64, 2, 1));
  CHECK_FALSE(chosen({1, 3, 224, 224}, 64, 1, 1));  // transforms would take longer than products
  CHECK_FALSE(chosen({1, 64, 224, 224}, 3, 1, 1));
  CHECK_FALSE(chosen({1, 512, 7, 7}, 512, 1, 1));  // a transformed kernel of 38 MiB
}

TEST_CASE("minimal filtering: an executor takes a kernel that is fed instead of the constant one") {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[1,32,16,16] x, float[32,32,3,3] kernel) => (float[1,32,16,16] y) {
  y = Conv<pads = [1, 1, 1, 1]>(x, kernel)
})");
  const ValueId x = *g.find_value("x"), kernel = *g.find_value("kernel"), wanted[] = {*g.find_value("y")};
  Problem p;
  p.c = convolution({1, 32, 16, 16}, 32, {1, 1, 1, 1});
  fill(p, Rng(25, "conv_winograd_test"));
  const Tensor image = Tensor::of<float>({1, 32, 16, 16}, p.x), weights = Tensor::of<float>({32, 32, 3, 3}, p.kernel);
  g[kernel].data = Tensor(DType::f32, {32, 32, 3, 3});
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  for (int run = 0; run < 2; ++run) {
    CHECK(same_bits(std::vector<float>(p.outputs()), executor.run({{x, image}}, wanted)[0].read<float>().data()));
    const Tensor y = executor.run({{x, image}, {kernel, weights}}, wanted)[0];
    CHECK(worst_error(p, {y.read<float>().begin(), y.read<float>().end()}) < 3e-6);
  }
  g[kernel].data = weights;
  const Tensor y = Executor(g, Reading::reference, threads).run({{x, image}}, wanted)[0];
  if (widest_available() >= Vectors::avx2) CHECK(same_bits(filtered(p, widest_available(), 1), y.read<float>().data()));
}

TEST_CASE("minimal filtering: nodes share what is made of a kernel that they share, in one shape") {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[1,32,16,16] a, float[1,16,16,16] b, float[32,32,3,3] k, float[64,16,3,3] l) => (float[1,32,16,16] u, float[1,32,16,16] v, float[1,64,16,16] w) {
  u = Conv<pads = [1, 1, 1, 1]>(a, k)
  v = Conv<pads = [1, 1, 1, 1]>(u, k)
  w = Conv<pads = [1, 1, 1, 1]>(b, l)
})");
  Problem p, q;
  p.c = convolution({1, 32, 16, 16}, 32, {1, 1, 1, 1});
  q.c = convolution({1, 16, 16, 16}, 64, {1, 1, 1, 1});
  fill(p, Rng(26, "conv_winograd_test"));
  fill(q, Rng(27, "conv_winograd_test"));
  q.kernel = p.kernel;
  const Tensor weights = Tensor::of<float>({32, 32, 3, 3}, p.kernel);
  g[*g.find_value("k")].data = weights;
  g[*g.find_value("l")].data = weights.reshaped({64, 16, 3, 3});
  Threads threads(1);
  const auto y = Executor(g, Reading::reference, threads)
                     .run({{*g.find_value("a"), Tensor::of<float>({1, 32, 16, 16}, p.x)},
                           {*g.find_value("b"), Tensor::of<float>({1, 16, 16, 16}, q.x)}});
  const auto floats = [&](std::size_t i) {
    return std::vector<float>(y[i].read<float>().begin(), y[i].read<float>().end());
  };
  CHECK(worst_error(p, floats(0)) < 3e-6);
  p.x = floats(0);
  CHECK(worst_error(p, floats(1)) < 3e-6);
  CHECK(worst_error(q, floats(2)) < 3e-6);
}

}  // namespace qtool::test

// SPDX-License-Identifier: Apache-2.0
// Convolutions of random shapes, computed directly, against a matrix of columns in double; and the promise that an
// output's bits depend on nothing but what it is made of.
#include "calib/ops/conv_direct.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/calib/conv_problem.h"

namespace qtool::test {
namespace {

std::vector<float> direct(const Problem& p, Vectors vectors, int thread_count) {
  Threads threads(thread_count);
  std::vector<float> y(p.outputs(), -1.0F);
  convolve_directly(threads, p.c, p.x.data(), p.kernel.data(), p.biases(), y.data(), vectors);
  return y;
}

/// The same on every run: shapes around the edges of vectors, tiles, bands and tasks.
Problem problem(std::uint64_t number) {
  const Rng rng(11, "conv_direct_test", std::to_string(number));
  std::uint64_t draw = 0;
  const auto pick = [&](std::initializer_list<std::int64_t> from) {
    return from.begin()[rng.bits(draw++) % from.size()];
  };
  Problem p;
  for (;;) {
    const bool line = pick({0, 0, 0, 0, 1}) == 1;
    const std::int64_t groups = pick({1, 1, 1, 2, 3}), inputs = pick({1, 2, 3, 8, 16, 33}),
                       outputs = pick({1, 2, 5, 8, 13, 16, 40});
    const Ints kernel{line ? 1 : pick({1, 2, 3, 3, 5, 7}), pick({1, 1, 2, 3, 3, 4, 7})};
    const Ints stride{line ? 1 : pick({1, 1, 2, 3}), pick({1, 1, 1, 2, 2, 3, 5})};
    const Ints dilation{line ? 1 : pick({1, 1, 2}), pick({1, 1, 1, 2, 3})};
    const Ints pads{line ? 0 : pick({0, 1, 3}), pick({0, 1, 2, 9}), line ? 0 : pick({0, 1, 2}), pick({0, 1, 3})};
    const Ints size{line ? 1 : pick({1, 3, 4, 7, 8, 14, 20, 33}), pick({1, 5, 7, 8, 13, 16, 17, 32, 40, 100})};
    if (size[0] + pads[0] + pads[2] < (kernel[0] - 1) * dilation[0] + 1) continue;
    if (size[1] + pads[1] + pads[3] < (kernel[1] - 1) * dilation[1] + 1) continue;
    Attrs attrs;
    attrs.set("group", groups);
    attrs.set("strides", stride);
    attrs.set("dilations", dilation);
    attrs.set("pads", pads);
    p.c = convolution_of(attrs, {pick({1, 1, 2, 3}), groups * inputs, size[0], size[1]},
                         {groups * outputs, inputs, kernel[0], kernel[1]});
    if (convolves_directly(p.c)) break;
  }
  p.x = normal(rng, p.c.batch * p.c.groups * p.c.inputs * p.c.window.input_size(), 1);
  p.kernel = normal(rng, p.c.groups * p.c.outputs * p.c.depth(), 2);
  if (pick({0, 1}) == 1) p.bias = normal(rng, p.c.groups * p.c.outputs, 3);
  return p;
}

}  // namespace

TEST_CASE("direct convolution: random shapes agree with a matrix of columns in double") {
  if (widest_available() < Vectors::avx2) return;  // nothing is convolved directly here
  for (std::uint64_t number = 0; number < 400; ++number) {
    const Problem p = problem(number);
    const std::vector<float> y = direct(p, widest_available(), 1);
    const std::vector<double> expected = p.by_columns(false), magnitude = p.by_columns(true);
    // Rounding errors of a chain of n additions grow like sqrt(n) half units in the last place of its largest part.
    const double unit = std::ldexp(1.0, -24) * 4 * std::sqrt(static_cast<double>(p.c.depth()) + 1);
    double worst = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) - expected[i]) - unit * magnitude[i]);
    }
    CAPTURE(number);
    CAPTURE(describe(p.c));
    CHECK(worst <= 0);
  }
}

TEST_CASE("direct convolution: bits do not depend on threads, vectors or the batch") {
  if (widest_available() < Vectors::avx2) return;
  for (std::uint64_t number = 0; number < 150; ++number) {
    const Problem p = problem(number);
    const std::vector<float> y = direct(p, widest_available(), 1);
    CAPTURE(describe(p.c));
    CHECK(same_bits(y, direct(p, widest_available(), 3).data()));
    CHECK(same_bits(y, direct(p, Vectors::avx2, 1).data()));
    for (std::int64_t n = 0; n < p.c.batch; ++n) {
      const Problem one = p.image(n);
      CHECK(same_bits(direct(one, widest_available(), 2), y.data() + one.outputs() * static_cast<std::size_t>(n)));
    }
  }
}

TEST_CASE("direct convolution: large enough for many tasks, cut by bands and by channels") {
  if (widest_available() < Vectors::avx2) return;
  struct Case {
    std::int64_t inputs, outputs, height, width, kernel, stride;
  };
  for (const Case& k : {Case{64, 48, 60, 100, 3, 1}, Case{96, 200, 9, 9, 3, 1}, Case{256, 64, 33, 33, 1, 1},
                        Case{3, 64, 150, 150, 7, 2}, Case{520, 32, 40, 48, 1, 2}}) {
    Problem p;
    Attrs attrs;
    attrs.set("strides", Ints{k.stride, k.stride});
    attrs.set("pads", Ints(4, k.kernel / 2));
    p.c = convolution_of(attrs, {1, k.inputs, k.height, k.width}, {k.outputs, k.inputs, k.kernel, k.kernel});
    const Rng rng(12, "conv_direct_test");
    p.x = normal(rng, k.inputs * k.height * k.width, 1);
    p.kernel = normal(rng, k.outputs * p.c.depth(), 2);
    REQUIRE(convolves_directly(p.c));
    const std::vector<float> y = direct(p, widest_available(), 2);
    CHECK(same_bits(y, direct(p, Vectors::avx2, 1).data()));
    const std::vector<double> expected = p.by_columns(false);
    const double scale = std::sqrt(static_cast<double>(p.c.depth()));
    double worst = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) - expected[i]));
    }
    CHECK(worst < 8e-6 * scale);
  }
}

TEST_CASE("direct convolution: attributes that would lay out far more than the image are left to columns") {
  const auto fits = [](Ints kernel, Ints stride, Ints dilation, Ints pads, Shape image) {
    Attrs attrs;
    attrs.set("strides", stride);
    attrs.set("dilations", dilation);
    attrs.set("pads", pads);
    return convolves_directly(convolution_of(attrs, image, {1, image[1], kernel[0], kernel[1]}));
  };
  const bool tiles = widest_available() >= Vectors::avx2;
  CHECK(fits({3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, {1, 16, 32, 32}) == tiles);
  CHECK(fits({1, 9}, {1, 4}, {1, 1}, {0, 4, 0, 4}, {1, 1, 1, 16000}) == tiles);
  CHECK_FALSE(fits({2, 2}, {1, 1}, {1 << 20, 1 << 20}, {1 << 20, 1 << 20, 1, 1}, {1, 64, 5, 5}));
  CHECK_FALSE(fits({1, 5000}, {1, 5000}, {1, 1}, {0, 0, 0, 0}, {1, 1, 1, 50000}));
}

TEST_CASE("an image that is one column of pixels is convolved as one line") {
  Threads threads(1);
  Attrs column, line;
  column.set("pads", std::vector<std::int64_t>{2, 0, 1, 0});
  column.set("strides", std::vector<std::int64_t>{2, 1});
  line.set("pads", std::vector<std::int64_t>{2, 1});
  line.set("strides", std::vector<std::int64_t>{2});
  const Convolution a = convolution_of(column, {2, 3, 40, 1}, {4, 3, 5, 1}),
                    b = convolution_of(line, {2, 3, 40}, {4, 3, 5});
  std::vector<float> x(2 * 3 * 40), kernel(4 * 3 * 5), y(2 * 4 * 20), z(y.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < kernel.size(); ++i) kernel[i] = std::cos(static_cast<float>(i));
  REQUIRE(a.window.output_shape(2, 4) == (Shape{2, 4, 20, 1}));
  convolve<float>(threads, a, x.data(), kernel.data(), nullptr, y.data());
  convolve<float>(threads, b, x.data(), kernel.data(), nullptr, z.data());
  CHECK(y == z);
}

}  // namespace qtool::test

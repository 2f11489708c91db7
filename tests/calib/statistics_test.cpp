// SPDX-License-Identifier: Apache-2.0
#include "calib/statistics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/rng.h"

using namespace qtool;

namespace {

std::vector<float> random_values(std::size_t count) {
  const Rng rng(11, "statistics_test");
  std::vector<float> x(count);
  for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<float>(rng.normal(i));
  return x;
}

/// Element by element, in order.
Extremes plain(std::span<const float> x) {
  Extremes e;
  for (const float v : x) {
    if (!std::isfinite(v)) {
      ++e.bad;
    } else {
      e.low = std::min(e.low, v);
      e.high = std::max(e.high, v);
    }
  }
  return e;
}

}  // namespace

TEST_CASE("extremes are those of a plain loop, wherever they stand") {
  for (const std::size_t n : {0, 1, 63, 64, 65, 1000}) {
    CAPTURE(n);
    for (std::size_t place = 0; place < std::max<std::size_t>(n, 1); place += 7) {
      std::vector<float> x = random_values(n);
      if (n > 0) x[place] = 50;
      if (n > 1) x[(place + 1) % n] = -60;
      if (n > 2) x[(place + 2) % n] = place % 2 == 0 ? NAN : INFINITY;
      const Extremes fast = extremes_of(x), slow = plain(x);
      CHECK(fast.low == slow.low);
      CHECK(fast.high == slow.high);
      CHECK(fast.bad == slow.bad);
    }
  }
  const std::vector<float> zeros(100, -0.0F);
  CHECK(std::signbit(extremes_of(zeros).low) == false);
}

TEST_CASE("statistics do not depend on threads, and channels are told apart") {
  const std::vector<float> values = random_values(3 * 5 * 20011);
  const Tensor x = Tensor::of<float>({3, 5, 20011}, std::span<const float>(values));
  Threads one(1), three(3);
  for (const int axis : {Statistics::whole, 1, -3}) {
    CAPTURE(axis);
    Statistics a("x", axis, 256), b("x", axis, 256);
    a.add(x, one);
    b.add(x, three);
    b.add(x, three);
    a.add(x, one);
    REQUIRE(a.channels().size() == (axis == Statistics::whole ? 1U : axis == 1 ? 5U : 3U));
    CHECK(a.count() == 2 * x.count());
    for (std::size_t c = 0; c < a.channels().size(); ++c) {
      const Channel &p = a.channels()[c], &q = b.channels()[c];
      CHECK(p.extremes.low == q.extremes.low);
      CHECK(p.extremes.high == q.extremes.high);
      CHECK(p.count == q.count);
      CHECK(p.histogram->count() == p.count);
      CHECK(p.histogram->low() == p.extremes.low);
      CHECK(p.histogram->list().size() == q.histogram->list().size());
    }
  }
  Statistics other("x", 1, 0);
  other.add(x, one);
  CHECK_THROWS_AS(other.add(x.reshaped({5, 3, 20011}), one), Error);
}

TEST_CASE("sums per channel have the bits of a plain loop, for any cut and any number of threads") {
  Threads one(1), three(3);
  for (const Shape& shape : {Shape{4, 19, 6007}, Shape{3000, 37, 1}, Shape{2, 1, 50000}}) {
    CAPTURE(to_string(shape));
    const std::int64_t outer = shape[0], channels = shape[1], inner = shape[2];
    const std::vector<float> x = random_values(static_cast<std::size_t>(outer * channels * inner));
    std::vector<double> expected(static_cast<std::size_t>(channels));
    for (std::size_t i = 0; i < x.size(); ++i) {
      expected[i / static_cast<std::size_t>(inner) % expected.size()] += static_cast<double>(x[i]);
    }
    std::vector<double> squares(expected.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      squares[i / static_cast<std::size_t>(inner) % squares.size()] += static_cast<double>(x[i]) * x[i];
    }
    ChannelSums squared(ChannelSums::Of::squares);
    REQUIRE(squared.add(Tensor::of<float>(shape, std::span<const float>(x)), channels, 1, three));
    CHECK(squared.sums() == squares);
    CHECK(squared.count() == outer * inner);
    for (double& sum : expected) sum /= static_cast<double>(outer * inner);
    ChannelSums whole, cut;
    REQUIRE(whole.add(Tensor::of<float>(shape, std::span<const float>(x)), channels, 1, one));
    const auto part = static_cast<std::size_t>(channels * inner);
    for (std::size_t o = 0; o < static_cast<std::size_t>(outer); ++o) {
      const auto row = std::span<const float>(x).subspan(o * part, part);
      REQUIRE(cut.add(Tensor::of<float>({1, channels, inner}, row), channels, -2, three));
    }
    CHECK(std::memcmp(whole.means().data(), expected.data(), expected.size() * sizeof(double)) == 0);
    CHECK(whole.means() == cut.means());
  }
  ChannelSums none;
  CHECK_FALSE(none.add(Tensor(DType::f32, {2, 3}), 4, 1, one));
  CHECK_FALSE(none.add(Tensor(DType::f32, {2, 3}), 3, 2, one));
  CHECK(none.means().empty());
}

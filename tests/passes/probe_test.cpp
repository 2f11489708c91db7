// SPDX-License-Identifier: Apache-2.0
#include "passes/probe.h"

#include <cmath>
#include <limits>

#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

TEST_CASE("probe: distance is a share of the range, or of the magnitude of a constant") {
  const auto f = [](std::initializer_list<float> v) {
    return Tensor::of<float>({static_cast<std::int64_t>(v.size())}, v);
  };
  CHECK(relative_distance(f({0, 10}), f({0, 10})) == 0);
  CHECK(relative_distance(f({0, 10}), f({1, 10})) == doctest::Approx(0.1));
  CHECK(relative_distance(f({100, 110}), f({101, 110})) == doctest::Approx(0.1));
  CHECK(relative_distance(f({4}), f({5})) == doctest::Approx(0.25));
  CHECK(relative_distance(f({0}), f({1})) == std::numeric_limits<double>::infinity());
}

TEST_CASE("probe: NaN and infinity must stay where they are") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const auto a = Tensor::of<float>({3}, {1, nan, inf});
  CHECK(relative_distance(a, Tensor::of<float>({3}, {1, nan, inf})) == 0);
  CHECK(std::isinf(relative_distance(a, Tensor::of<float>({3}, {1, 2, inf}))));
  CHECK(std::isinf(relative_distance(a, Tensor::of<float>({3}, {1, nan, -inf}))));
  CHECK(std::isinf(relative_distance(Tensor::of<float>({1}, {1}), Tensor::of<float>({1}, {nan}))));
}

TEST_CASE("probe: other shapes and types are infinitely far") {
  CHECK(std::isinf(relative_distance(Tensor::of<float>({2}, {1, 2}), Tensor::of<float>({1, 2}, {1, 2}))));
  CHECK(std::isinf(relative_distance(Tensor::of<float>({1}, {1}), Tensor::of<double>({1}, {1}))));
}

TEST_CASE("probe: integers may differ in one element of a thousand") {
  std::vector<std::int64_t> v(2000);
  const Tensor a = Tensor::of<std::int64_t>({2000}, v);
  v[3] = 1;
  CHECK(relative_distance(a, Tensor::of<std::int64_t>({2000}, v)) == 0);
  v[4] = v[5] = 1;
  CHECK(std::isinf(relative_distance(a, Tensor::of<std::int64_t>({2000}, v))));
  CHECK(std::isinf(relative_distance(Tensor::scalar<std::int64_t>(1), Tensor::scalar<std::int64_t>(2))));
}

TEST_CASE("probe: made-up feeds bind equal symbols alike and keep integers small") {
  const Graph g = graph_of("g (float[N, C, 8] x, int64[N, C] i, bool[2] b, float s) => (float y) { y = Identity (s) }");
  const Rng rng(1);
  const auto feeds = synthetic_feeds(g, 5, 3, rng);
  REQUIRE(feeds);
  CHECK(feeds->at(g.inputs[0]).shape() == Shape{1, 5, 8});
  CHECK(feeds->at(g.inputs[1]).shape() == Shape{1, 5});
  for (const std::int64_t v : to_int64s(feeds->at(g.inputs[1]))) CHECK((v >= 0 && v < 3));
  CHECK(feeds->at(g.inputs[3]).shape().empty());
  CHECK(synthetic_feeds(g, 5, 3, rng)->at(g.inputs[0]).same_bytes(feeds->at(g.inputs[0])));
  CHECK_FALSE(synthetic_feeds(graph_of("g (string[2] s) => (string[2] y) { y = Identity (s) }"), 5, 3, rng));
}

TEST_CASE("probe: a graph that amplifies rounding is judged by its own noise") {
  // Two nearly equal numbers subtracted and blown up: one unit in the last place is a large share of the range.
  const std::string text = R"(g (float[4] x) => (float[4] y) < float[1] a = {1000.0}, float[1] b = {1000.0} > {
    c = Add (x, a)
    d = Sub (c, b)
    y = Sub (d, x)
  })";
  const Graph before = graph_of(text);
  Graph after = before;
  after[*after.find_value("a")].data.write<float>()[0] = std::nextafter(1000.0F, 2000.0F);
  after[*after.find_value("b")].data.write<float>()[0] = std::nextafter(1000.0F, 2000.0F);
  Journal journal;
  Threads threads(1);
  Calibration calibration(nullptr, threads, journal);
  const Rng rng(1);
  Probe probe(calibration, threads, rng);
  CHECK(probe.difference(before, after) == "");
  after[*after.find_value("b")].data.write<float>()[0] = 1001;
  CHECK(contains(probe.difference(before, after), "output \"y\" moved"));
}

TEST_CASE("probe: nodes that became constants need no look at outputs") {
  const auto text = "g (float[2] x) => (float[2] y) < float[2] c = {1.0, 2.0} > { d = Neg (c) y = Add (x, d) }";
  const Graph before = graph_of(text);
  const ValueId d = *before.find_value("d");
  Graph after = before;
  after.erase(after.order().front());
  after[d].data = Tensor::of<float>({2}, {-1, -2});
  Threads threads(1);
  CHECK(only_folded(before, after, threads));
  after[d].data = Tensor::of<float>({2}, {-1, -3});
  CHECK_FALSE(only_folded(before, after, threads));
  Graph other = before;
  other[*other.find_value("c")].data = Tensor::of<float>({2}, {1, 3});
  CHECK_FALSE(only_folded(before, other, threads));
}

// SPDX-License-Identifier: Apache-2.0
// Tails of a value that its readers make the same of: known functions in, known bounds out; and what clipping costs is
// within the promise, by the functions' formulas.
#include "passes/saturation.h"

#include <cmath>

#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

constexpr Bounds wide{-90, 80};

Bounds told(const std::string& body, Bounds seen = wide) {
  const Graph g = graph_of(
      "g (float[8] x) => (float[8] y) < float half = {0.5}, float one = {1}, float root = {1.41421354}, "
      "float three = {3}, float zero = {0}, float six = {6}, float[8] many = {1,2,3,4,5,6,7,8} > " +
      body);
  Threads threads(1);
  return told_apart(g, Links(g), *g.find_value("v"), seen, number::uint8, threads);
}

/// The largest change of f in `seen` when its argument is clipped to `to`, in 8-bit steps of f's range (0 included).
template <class F>
double cost(F f, Bounds seen, Bounds to) {
  double worst = 0, low = 0, high = 0;
  for (double x = seen.low; x <= seen.high; x += 0.001) {
    const double clipped = std::clamp(x, static_cast<double>(to.low), static_cast<double>(to.high));
    worst = std::max(worst, std::abs(f(x) - f(clipped)));
    low = std::min(low, f(x));
    high = std::max(high, f(x));
  }
  return worst / ((high - low) / 255);
}

constexpr double promise = 0.125 + 0.005;  // and what the grid of points misses

}  // namespace

TEST_CASE("told apart: x * sigmoid(x) is flat below, and x itself above") {
  const Bounds b = told("{ v = Neg (x) s = Sigmoid (v) y = Mul (v, s) }");
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  CHECK(cost(silu, wide, b) < promise);
  CHECK(b.low > -5.0F);  // silu(-5) = -0.033; the step is 0.31
  CHECK(b.low < -3.0F);
  CHECK(b.high == wide.high);
}

TEST_CASE("told apart: Sigmoid alone is flat at both ends") {
  const Bounds b = told("{ v = Neg (x) y = Sigmoid (v) }");
  CHECK(cost([](double x) { return 1 / (1 + std::exp(-x)); }, wide, b) < promise);
  CHECK(b.low == doctest::Approx(-7.6).epsilon(0.02));  // logit(1 / 2040)
  CHECK(b.high == doctest::Approx(7.6).epsilon(0.02));
}

TEST_CASE("told apart: HardSwish is 0 below -3, as one operator and spelled out") {
  for (const char* body :
       {"{ v = Neg (x) y = HardSwish (v) }",
        "{ v = Neg (x) a = Add (v, three) c = Clip (a, zero, six) m = Mul (v, c) y = Div (m, six) }"}) {
    const Bounds b = told(body);
    CHECK(b.low == doctest::Approx(-3).epsilon(0.02));
    CHECK(b.high == wide.high);
  }
}

TEST_CASE("told apart: the Erf form of Gelu") {
  const Bounds b =
      told("{ v = Neg (x) d = Div (v, root) e = Erf (d) p = Add (e, one) m = Mul (v, p) y = Mul (m, half) }", {-9, 7});
  CHECK(cost([](double x) { return x / 2 * (1 + std::erf(x / std::sqrt(2))); }, {-9, 7}, b) < promise);
  CHECK(b.low > -3.5F);
  CHECK(b.high == 7);
}

TEST_CASE("told apart: Relu takes what is below 0, and a range that it leaves nothing of stays") {
  CHECK(std::abs(told("{ v = Neg (x) y = Relu (v) }").low) < promise * 80 / 255);
  const Bounds b = told("{ v = Neg (x) y = Relu (v) }", {-5, -1});
  CHECK(b.low == -5);
  CHECK(b.high == -1);
}

TEST_CASE("told apart: every reader counts") {
  for (const char* body : {"{ v = Neg (x) s = Sigmoid (v) y = Mul (s, many) t = Add (v, many) }",  // v itself is read
                           "{ v = Neg (x) s = Sigmoid (v) y = Mul (v, s) t = Softmax (v) }",   // not element by element
                           "{ v = Neg (x) s = Sigmoid (v) w = Mul (v, s) y = Identity (v) }",  // all of v comes out
                           "{ v = Neg (x) s = Sigmoid (v) y = Mul (v, x) }",  // a product with something else
                           "{ v = Neg (x) y = LeakyRelu <alpha = 0.1> (v) }"}) {
    CAPTURE(body);
    const Bounds b = told(body);
    CHECK(b.low == wide.low);
    CHECK(b.high == wide.high);
  }
  // Two readers: the one that tells more apart decides.
  const Bounds b = told("{ v = Neg (x) s = Sigmoid (v) y = Mul (v, s) h = HardSwish (v) }");
  CHECK(b.low < -3.0F);
}

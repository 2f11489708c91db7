// SPDX-License-Identifier: Apache-2.0
// Scales from data: known ranges in, known scales out; shared specs, Relu, Clip, values that are not finite.
#include "backends/backend.h"
#include "formats/ir/quant.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// Assigns statically and calibrates on one batch of `x`.
struct Calibrated {
  Graph graph;
  PassBench bench;
  Calibrated(const std::string& body, const Shape& shape, const std::vector<float>& x, const Knobs& knobs = {},
             const Knobs& assign = {})
      : graph(graph_of(body)), bench(data(graph, shape, x)) {
    bench.target = find_backend("ort-cpu")->target();
    graph = bench.run("assign_formats", graph, assign);
    graph = bench.run("calibrate_ranges", graph, knobs);
  }
  static std::shared_ptr<const Dataset> data(const Graph& g, const Shape& shape, const std::vector<float>& x) {
    return std::make_shared<FixedData>(
        std::vector<Feeds>{{{*g.find_value("x"), Tensor::of<float>(shape, std::span<const float>(x))}}});
  }
  /// The spec under which the first decided use of `value` is seen.
  const QuantSpec& spec(const std::string& value) const {
    const ValueId v = *graph.find_value(value);
    const Links links(graph);
    for (const auto& c : links.consumers(v)) {
      if (use_at(graph, c).quant) return *use_at(graph, c).quant;
    }
    FAIL("no decision at " << value);
    throw 0;
  }
  float scale(const std::string& value) const { return spec(value).scale.read<float>()[0]; }
  int zero(const std::string& value) const {
    const Tensor& z = spec(value).zero_point;
    return z.empty() ? 0 : z.read<std::int32_t>()[0];
  }
};

const std::string one = "g (float[1,4] x) => (float[1,4] y) < float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1} > ";
const std::string picture =
    "g (float[1,1,2,2] x) => (float[1,1,2,2] y) < float[1,1,1,1] w = {1}, float low = {-1}, float high = {2}, float "
    "zero = {0} > ";

}  // namespace

// number-formats.md section 2, asymmetric: s = (hi - lo) / 255, z = round(-lo / s).
TEST_CASE("calibrate: asymmetric range, widened to contain 0") {
  const Calibrated a(one + "{ y = MatMul (x, w) }", {1, 4}, {-1.0F, 0.5F, 2.0F, 4.1F});
  CHECK(a.scale("x") == doctest::Approx(5.1 / 255));
  CHECK(a.zero("x") == 50);
  const Calibrated b(one + "{ y = MatMul (x, w) }", {1, 4}, {2.0F, 3.0F, 4.0F, 5.1F});
  CHECK(b.scale("x") == doctest::Approx(5.1 / 255));
  CHECK(b.zero("x") == 0);
}

TEST_CASE("calibrate: signed activations are symmetric") {
  const Calibrated a(one + "{ y = MatMul (x, w) }", {1, 4}, {-1.0F, 0.5F, 2.0F, 2.54F}, {}, {{"activations", "int8"}});
  CHECK(a.scale("x") == doctest::Approx(2.54 / 127));
  CHECK(a.zero("x") == 0);
}

TEST_CASE("calibrate: a value that is always 0 gets a positive scale") {
  const Calibrated a(one + "{ y = MatMul (x, w) }", {1, 4}, {0, 0, 0, 0});
  CHECK(a.scale("x") > 0);
}

TEST_CASE("calibrate: behind a Relu the zero point is the lowest code") {
  const Calibrated a(picture + "{ c = Conv (x, w)  r = Relu (c)  y = Conv (r, w) }", {1, 1, 2, 2}, {-3, 0, 1, 5.1F});
  CHECK(a.scale("r") == doctest::Approx(5.1 / 255));
  CHECK(a.zero("r") == 0);
  const Calibrated s(picture + "{ c = Conv (x, w)  r = Relu (c)  y = Conv (r, w) }", {1, 1, 2, 2}, {-3, 0, 1, 5.1F}, {},
                     {{"activations", "int8"}});
  CHECK(s.scale("r") == doctest::Approx(5.1 / 255));
  CHECK(s.zero("r") == -128);
}

TEST_CASE("calibrate: Conv, MaxPool, Relu: the range is that of the Relu") {
  const Calibrated a(
      picture + "{ c = Conv (x, w)  m = MaxPool <kernel_shape = [1, 1]> (c)  r = Relu (m)  y = Conv (r, w) }",
      {1, 1, 2, 2}, {-30, 0, 1, 5.1F});
  CHECK(&a.spec("c") == &a.spec("r"));
  CHECK(a.scale("c") == doctest::Approx(5.1 / 255));
  CHECK(a.zero("c") == 0);
}

TEST_CASE("calibrate: values that share a spec get the union of their ranges") {
  const std::string text =
      "g (float[1,1,2,2] x) => (float[1,1,2,2] y) < float[1,1,1,1] w = {1}, float[1,1,1,1] u = {-2}, float[1,2,1,1] v "
      "= {1, 1} > "
      "{ a = Conv (x, w)  b = Conv (x, u)  c = Concat <axis = 1> (a, b)  y = Conv (c, v) }";
  const Calibrated a(text, {1, 1, 2, 2}, {0, 0.5F, 1, 1.7F});
  CHECK(&a.spec("a") == &a.spec("b"));
  CHECK(a.scale("a") == doctest::Approx(5.1 / 255));  // 1.7 above, 3.4 below
  CHECK(a.zero("a") == 170);
}

// ONNX Runtime keeps a Clip, and the Conv before it in float, when the quantizer reaches beyond its bounds.
TEST_CASE("calibrate: behind a Clip no code lies outside its bounds") {
  const Calibrated a(picture + "{ c = Conv (x, w)  k = Clip (c, low, high)  y = Conv (k, w) }", {1, 1, 2, 2},
                     {-9, 0, 1, 9});
  const float s = a.scale("k");
  const int z = a.zero("k");
  CHECK(static_cast<float>(z) * s <= 1.0F);
  CHECK(static_cast<float>(255 - z) * s <= 2.0F);
  CHECK(s == doctest::Approx(3.0 / 255).epsilon(0.01));
  // Far inside, the data decide.
  const Calibrated b(picture + "{ c = Conv (x, w)  k = Clip (c, low, high)  y = Conv (k, w) }", {1, 1, 2, 2},
                     {-0.1F, 0, 0.1F, 0.155F});
  CHECK(b.scale("k") == doctest::Approx(0.255 / 255));
}

TEST_CASE("calibrate: a value that is not always finite stays float, and what reads it") {
  const Calibrated a(
      "g (float[1,4] x) => (float[1,4] y, float[1,4] m) < float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1} > "
      "{ l = Log (x)  m = MatMul (l, w)  y = MatMul (x, w) }",
      {1, 4}, {0, 1, 2, 3});
  const Node& m = a.graph[Links(a.graph).producer(*a.graph.find_value("m"))];
  CHECK(m.inputs[0].quant == nullptr);
  CHECK(m.inputs[1].quant == nullptr);
  CHECK(a.scale("x") == doctest::Approx(3.0 / 255));
  CHECK(contains(a.bench.skips(), "not always finite"));
}

TEST_CASE("calibrate: outliers are cut when asked for") {
  std::vector<float> x(1000, 1.0F);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) / 1000.0F;
  x[7] = 500;
  const std::string text =
      "g (float[250,4] x) => (float[250,4] y) < float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1} > { y = MatMul (x, "
      "w) }";
  CHECK(Calibrated(text, {250, 4}, x).scale("x") == doctest::Approx(500.0 / 255));
  const Calibrated cut(text, {250, 4}, x, {{"method", "percentile"}, {"percentile", "99"}});
  CHECK(cut.scale("x") < 1.2F / 255);
  CHECK(cut.scale("x") > 0.9F / 255);
}

TEST_CASE("calibrate: without data it says what to do; with nothing to calibrate it needs none") {
  Graph g = graph_of(one + "{ y = MatMul (x, w) }");
  PassBench bench;
  bench.target = find_backend("ort-cpu")->target();
  g = bench.run("assign_formats", g);
  CHECK(contains(message_of(Code::calibration, [&] { bench.run("calibrate_ranges", g); }), "need calibration data"));
  CHECK_NOTHROW(bench.run("calibrate_ranges", graph_of(one + "{ y = Exp (x) }")));
}

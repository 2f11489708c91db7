// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "backends/backend.h"
#include "calib/executor.h"
#include "formats/ir/quant.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::vector<Feeds> batches(const Graph& g, const Shape& shape, float shift, int count = 4) {
  std::vector<Feeds> all;
  for (int b = 0; b < count; ++b) {
    Tensor t(DType::f32, shape);
    const Rng rng(static_cast<std::uint64_t>(b), "data");
    std::uint64_t i = 0;
    for (float& v : t.write<float>()) v = static_cast<float>(rng.normal(i++)) + shift;
    all.push_back({{g.inputs[0], t}});
  }
  return all;
}

/// Coarse weights everywhere: the mean has something to lose.
void quantize_weights(Graph& g) {
  for (const NodeId id : g.nodes()) {
    if (g[id].inputs.size() < 2 || !g.is_constant(g[id].inputs[1].value) || g[id].op == "Add") continue;
    auto spec = std::make_shared<QuantSpec>();
    spec->format = &number::int3;
    g[id].inputs[1].quant = spec;
  }
}

/// Mean over all batches of |mean per channel of the quantized output - that of the float output of `before`|.
double mean_error(const Graph& before, const Graph& after, const std::vector<Feeds>& data, std::size_t channels,
                  bool spatial) {
  Threads threads(1);
  const Executor a(before, Reading::reference, threads), b(after, Reading::quantized, threads);
  std::vector<double> sums(channels);
  std::size_t count = 0;
  for (const Feeds& feeds : data) {
    const Tensor x = a.run(feeds)[0], y = b.run(feeds)[0];
    const auto p = x.read<float>(), q = y.read<float>();
    const std::size_t inner = spatial ? p.size() / channels : 1;  // batch 1
    for (std::size_t i = 0; i < p.size(); ++i) sums[i / inner % channels] += static_cast<double>(q[i]) - p[i];
    count += p.size() / channels;
  }
  double error = 0;
  for (const double s : sums) error += std::abs(s) / static_cast<double>(count);
  return error / static_cast<double>(channels);
}

struct Corrected {
  double before, after;
  Graph graph;
  std::string skips;
};

Corrected correct(const std::string& text, const Shape& shape, std::size_t channels, bool spatial,
                  const Knobs& knobs = {}) {
  Graph g = graph_of(text);
  const auto data = batches(g, shape, 1.5F);
  quantize_weights(g);
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph rounded = bench.run("round_nearest", g);
  Graph fixed = bench.run("bias_correct", rounded, knobs);
  return {mean_error(g, rounded, data, channels, spatial), mean_error(g, fixed, data, channels, spatial), fixed,
          bench.skips()};
}

const char* const gemm = R"(g (float[8, 3] x) => (float[8, 2] y)
  < float[3, 2] w = {0.31, -0.73, 0.52, 0.11, -0.94, 0.27}, float[2] b = {0.1, 0.2} > { y = Gemm (x, w, b) })";
const char* const conv = R"(g (float[1, 2, 5, 5] x) => (float[1, 2, 4, 4] y)
  < float[2, 2, 2, 2] w = {0.31, -0.73, 0.52, 0.11, -0.94, 0.27, 0.45, 0.18, 0.37, -0.66, 0.83, 0.21, -0.14, 0.57, 0.35, 0.98} >
  { y = Conv (x, w) })";

}  // namespace

TEST_CASE("bias_correct: gives the mean back, by both methods") {
  for (const char* method : {"analytic", "measured"}) {
    const Corrected g = correct(gemm, {8, 3}, 2, false, {{"method", method}});
    CHECK(g.before > 0.01);
    CHECK(g.after < 1e-5);
    const Corrected m = correct(R"(g (float[2, 4, 3] x) => (float[2, 4, 2] y)
      < float[3, 2] w = {0.31, -0.73, 0.52, 0.11, -0.94, 0.27}, float[2] b = {0.1, 0.2} > { t = MatMul (x, w) y = Add (t, b) })",
                                {2, 4, 3}, 2, false, {{"method", method}});
    CHECK(m.before > 0.01);
    CHECK(m.after < 1e-5);
  }
}

TEST_CASE("bias_correct: a Conv without bias gets one; what the analytic form misses is the border") {
  const Corrected measured = correct(conv, {1, 2, 5, 5}, 2, true, {{"method", "measured"}});
  CHECK(measured.before > 0.01);
  CHECK(measured.after < 1e-5);
  CHECK(measured.graph[measured.graph.nodes()[0]].inputs.size() == 3);
  // Without padding every tap still sees another window of the picture, so the means differ a little.
  const Corrected analytic = correct(conv, {1, 2, 5, 5}, 2, true);
  CHECK(analytic.after < 0.2 * analytic.before);
}

TEST_CASE("bias_correct: a bias added to an integer layer is decided like the others") {
  Graph g = graph_of(conv);
  const auto data = batches(g, {1, 2, 5, 5}, 1.5F);
  quantize_weights(g);
  QuantSpec x;
  x.format = &number::uint8;
  x.symmetric = false;
  x.scale = Tensor::scalar(0.05F);
  x.zero_point = Tensor::scalar(std::int32_t{60});
  g[g.nodes()[0]].inputs[0].quant = std::make_shared<QuantSpec>(x);
  PassBench bench(std::make_shared<FixedData>(data));
  g = bench.run("bias_correct", bench.run("round_nearest", g));
  const Use& bias = g[g.nodes()[0]].inputs[2];
  REQUIRE(bias.quant);
  CHECK(bias.quant->is_bias);
}

TEST_CASE("bias_correct: a bias added for a runtime that takes biases in float stays float") {
  Graph g = graph_of(conv);
  const auto data = batches(g, {1, 2, 5, 5}, 1.5F);
  quantize_weights(g);
  QuantSpec x;
  x.format = &number::int8;
  x.scale = Tensor::scalar(0.05F);
  g[g.nodes()[0]].inputs[0].quant = std::make_shared<QuantSpec>(x);
  PassBench bench(std::make_shared<FixedData>(data));
  bench.target = find_backend("tensorrt")->target();
  g = bench.run("bias_correct", bench.run("round_nearest", g));
  REQUIRE(g[g.nodes()[0]].inputs.size() == 3);
  CHECK(!g[g.nodes()[0]].inputs[2].quant);
}

TEST_CASE("bias_correct: later layers see corrected ones") {
  const char* const two = R"(g (float[8, 3] x) => (float[8, 2] y)
    < float[3, 2] w = {0.31, -0.73, 0.52, 0.11, -0.94, 0.27}, float[2] b = {0.1, 0.2},
      float[2, 2] v = {0.61, -0.33, 0.22, 0.81}, float[2] c = {0.3, -0.4} > {
    a = Gemm (x, w, b)
    r = Relu (a)
    y = Gemm (r, v, c)
  })";
  const Corrected measured = correct(two, {8, 3}, 2, false, {{"method", "measured"}});
  CHECK(measured.after < 1e-5);
}

TEST_CASE("bias_correct: a MatMul without Add is skipped with a reason") {
  const Corrected m = correct(
      "g (float[8, 3] x) => (float[8, 2] y) < float[3, 2] w = {0.31, -0.73, 0.52, 0.11, -0.94, 0.27} > "
      "{ y = MatMul (x, w) }",
      {8, 3}, 2, false);
  CHECK(m.before == m.after);
  CHECK(contains(m.skips, "no bias"));
}

TEST_CASE("bias_correct: a bias shared with another node is copied") {
  const Corrected g = correct(
      R"(g (float[8, 2] x) => (float[8, 2] y) < float[2, 2] w = {0.31, -0.73, 0.52, 0.11}, float[2] b = {0.1, 0.2} > {
    a = Add (x, b)
    y = Gemm (a, w, b)
  })",
      {8, 2}, 2, false);
  CHECK(floats_of(g.graph, "b") == std::vector<float>{0.1F, 0.2F});
  CHECK(g.after < 1e-5);
}

TEST_CASE("bias_correct: float layers are left alone, and without data it says so") {
  const Graph g = graph_of(gemm);
  PassBench with(std::make_shared<FixedData>(batches(g, {8, 3}, 0)));
  CHECK(diff_graphs(g, with.run("bias_correct", g)) == "");
  CHECK(contains(message_of(Code::calibration, [&] { PassBench().run("bias_correct", g); }), "calibration data"));
}

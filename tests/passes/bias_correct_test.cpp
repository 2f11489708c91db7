// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "backends/backend.h"
#include "calib/executor.h"
#include "formats/ir/quant.h"
#include "passes/normals.h"
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

namespace {

/// A layer whose input a normalization makes, on positive means: conv, normalization, `between`, conv.
std::string normalized(const std::string& between) {
  return R"(g (float[64, 2, 4, 4] x) => (float[64, 2, 4, 4] y)
    < float[2, 2, 1, 1] v = {1.0, 0.0, 0.0, 1.0}, float[2] gamma = {2.0, -0.5}, float[2] beta = {1.0, 0.25},
      float[2] mean = {0.0, 0.0}, float[2] variance = {1.0, 1.0}, float low = {0.0}, float high = {6.0},
      float[2, 2, 1, 1] w = {0.31, -0.73, 0.52, 0.11}, float[2] b = {0.1, 0.2} > {
      c = Conv (x, v)
      n = BatchNormalization <epsilon: float = 0.0> (c, gamma, beta, mean, variance)
      )" +
         between +
         R"(
      y = Conv (r, w, b)
    })";
}

/// The graph with coarse weights in its last product alone.
Graph coarse(Graph g) {
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::int3;
  g[Links(g).producer(g.outputs[0].value)].inputs[1].quant = spec;
  return g;
}

}  // namespace

TEST_CASE("bias_correct: means of clamped normal numbers") {
  const double all = std::numeric_limits<double>::infinity();
  // beta (1 - Phi(-beta/gamma)) + gamma phi(-beta/gamma), with Phi and phi from tables.
  CHECK(clamped_mean(0, 1, 0, all) == doctest::Approx(0.3989422804));
  CHECK(clamped_mean(1, 2, 0, all) == doctest::Approx(0.6914624613 + 2 * 0.3520653268));
  CHECK(clamped_mean(-1, 2, 0, all) == doctest::Approx(-0.3085375387 + 2 * 0.3520653268));
  CHECK(clamped_mean(3, 2, 0, 6) == doctest::Approx(3));  // as much is cut off above as below
  CHECK(clamped_mean(5, 2, 0, 6) == doctest::Approx(6 - clamped_mean(1, 2, 0, 6)));
  CHECK(clamped_mean(0.7, 2, -all, all) == doctest::Approx(0.7));
  CHECK(clamped_mean(-3, 0, 0, 6) == 0);
  CHECK(clamped_mean(8, 0, 0, 6) == 6);
  // A tail that is cut off far away changes nothing; the middle of it is the sum of many thin slices.
  CHECK(clamped_mean(1, 2, 0, 60) == doctest::Approx(clamped_mean(1, 2, 0, all)));
  double sum = 0;
  for (int i = -100000; i < 100000; ++i) {
    const double z = (i + 0.5) * 1e-4, x = 1.5 + 2 * z;
    sum += std::min(std::max(x, 0.0), 4.0) * std::exp(-z * z / 2) * 1e-4 / std::sqrt(2 * 3.14159265358979);
  }
  CHECK(clamped_mean(1.5, 2, 0, 4) == doctest::Approx(sum));
}

TEST_CASE("bias_correct: without data, from what a batch normalization tells, folded or not") {
  for (const char* between : {"r = Relu (n)", "r = Clip (n, low, high)", "r = Identity (n)"}) {
    CAPTURE(between);
    const Graph g = graph_of(normalized(between));
    const auto data = batches(g, {64, 2, 4, 4}, 0, 40);  // what the normalization expects: mean 0, variance 1
    PassBench bench;                                     // no data
    const Graph rounded = bench.run("round_nearest", coarse(g));
    const Graph fixed = bench.run("bias_correct", rounded, {{"method", "batch_norm"}});
    const double before = mean_error(g, rounded, data, 2, true), after = mean_error(g, fixed, data, 2, true);
    CHECK(before > 0.02);
    CHECK(after < 0.1 * before);

    PassBench folding;
    const Graph folded = folding.run("fold_batch_norm", g);
    REQUIRE(count_op(folded, "BatchNormalization") == 0);
    const Graph other =
        folding.run("bias_correct", folding.run("round_nearest", coarse(folded)), {{"method", "batch_norm"}});
    const auto is = floats_of(other, "b"), wished = floats_of(fixed, "b");
    for (std::size_t o = 0; o < 2; ++o) CHECK(is[o] == doctest::Approx(wished[o]));

    if (std::string(between).find("Clip") != std::string::npos) continue;  // what evens out goes through ReLU alone
    PassBench evened;
    const Graph even = evened.run("equalize_layers", evened.run("fold_batch_norm", g));
    const Graph even_rounded = evened.run("round_nearest", coarse(even));
    const Graph even_fixed = evened.run("bias_correct", even_rounded, {{"method", "batch_norm"}});
    CHECK(mean_error(g, even_fixed, data, 2, true) < 0.2 * mean_error(g, even_rounded, data, 2, true));
  }
}

TEST_CASE("bias_correct: affine steps that are folded behind a normalization move its means") {
  const Graph g = graph_of(normalized("s = Mul (n, high) r = Relu (s)"));
  PassBench bench;
  const Graph folded = bench.run("fold_batch_norm", g);
  REQUIRE(count_op(folded, "Mul") == 0);
  const Graph rounded = bench.run("round_nearest", coarse(folded));
  const Graph fixed = bench.run("bias_correct", rounded, {{"method", "batch_norm"}});
  const auto data = batches(g, {64, 2, 4, 4}, 0, 8);
  CHECK(mean_error(g, fixed, data, 2, true) < 0.1 * mean_error(g, rounded, data, 2, true));
}

TEST_CASE("bias_correct: where no normalization tells means, it says so and changes nothing") {
  for (const auto& [between, why] :
       {std::pair{"r = Sigmoid (n)", "no batch normalization tells the means of its input: they come from Sigmoid"},
        std::pair{"s = Relu (n) r = Clip (s, low, high)", "clamped more than once"}}) {
    PassBench bench;
    const Graph rounded = bench.run("round_nearest", coarse(graph_of(normalized(between))));
    CHECK(diff_graphs(bench.run("bias_correct", rounded, {{"method", "batch_norm"}}), rounded).empty());
    CHECK(contains(bench.skips(), why));
  }
  PassBench bench;
  Graph g = graph_of(gemm);
  quantize_weights(g);
  CHECK(diff_graphs(bench.run("bias_correct", g, {{"method", "batch_norm"}}), g).empty());
  CHECK(contains(bench.skips(), "no batch normalization tells the means of its input"));
}

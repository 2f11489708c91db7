// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "formats/lock.h"
#include "formats/number/half.h"
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// Mean and variance per channel (the last axis) of output 0 over all batches.
struct Moments {
  std::vector<double> mean, variance;
};

Moments moments(const Graph& g, Reading reading, const std::vector<Feeds>& data, std::size_t channels) {
  Threads threads(1);
  const Executor executor(g, reading, threads);
  Moments m{std::vector<double>(channels), std::vector<double>(channels)};
  std::vector<float> all;
  for (const Feeds& feeds : data) {
    const Tensor y = executor.run(feeds)[0];
    const auto v = y.read<float>();
    all.insert(all.end(), v.begin(), v.end());
  }
  const double n = static_cast<double>(all.size()) / static_cast<double>(channels);
  for (std::size_t i = 0; i < all.size(); ++i) m.mean[i % channels] += static_cast<double>(all[i]) / n;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const double d = static_cast<double>(all[i]) - m.mean[i % channels];
    m.variance[i % channels] += d * d / n;
  }
  return m;
}

Graph layer(bool bias) {
  Graph g = graph_of(
      bias ? R"(g (float[16, 48] x) => (float[16, 20] y) < float[1] w = {1.0}, float[20] b = {1.0, 2.0, 3.0, 4.0, 5.0,
                6.0, 7.0, 8.0, 9.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, 0.5} > {
                t = MatMul (x, w) y = Add (t, b) })"
           : "g (float[16, 48] x) => (float[16, 20] y) < float[1] w = {1.0} > { y = MatMul (x, w) }");
  Value& w = g[*g.find_value("w")];
  w.data = normal({48, 20}, "w", 0.2);
  w.type.shape = {48, 20};
  return g;
}

const QuantSpec& weight_of(const Graph& g) { return *g[g.nodes()[0]].inputs[1].quant; }

/// The graph with every scale of its first node's weight so many times as large.
Graph with_scales(Graph g, float factor) {
  auto spec = std::make_shared<QuantSpec>(weight_of(g));
  for (float& s : spec->scale.write<float>()) s *= factor;
  g[g.nodes()[0]].inputs[1].quant = spec;
  return g;
}

const Grain channels{Grain::Kind::axis, 1, 0, 0}, groups{Grain::Kind::groups, 0, 16, 0};

}  // namespace

TEST_CASE("tune_statistics: scales that are off come back, and so does what that did to means") {
  for (const bool bias : {true, false}) {
    for (const Grain& grain : {channels, groups}) {
      Graph g = layer(bias);
      decide(g, small_weights(number::int8, grain, true));
      auto data = correlated(g, 16, 48, 12);
      for (Feeds& feeds : data) {
        for (float& x : feeds.at(g.inputs[0]).write<float>()) x += 0.7F;
      }
      PassBench bench(std::make_shared<FixedData>(data));
      const Graph right = bench.run("round_nearest", g);
      const Graph tuned = bench.run("tune_statistics", with_scales(right, 0.8F), {{"samples", "0"}});
      CHECK(output_error(g, with_scales(right, 0.8F), data) > 0.005);
      CHECK(output_error(g, tuned, data) < 1.02 * output_error(g, right, data));
      const auto is = weight_of(tuned).scale.read<float>(), was = weight_of(right).scale.read<float>();
      for (std::size_t i = 0; i < is.size(); ++i) CHECK(is[i] == doctest::Approx(was[i]).epsilon(0.01));
      CHECK(weight_of(tuned).codes.same_bytes(weight_of(right).codes));
    }
  }
}

TEST_CASE("tune_statistics: mean and variance are those of the float layer where it changes scales") {
  Graph g = layer(true);
  decide(g, small_weights(number::int2, channels, true));
  const auto data = correlated(g, 16, 48, 12);
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph rounded = bench.run("round_nearest", g), tuned = bench.run("tune_statistics", rounded);
  const Moments wished = moments(g, Reading::reference, data, 20), is = moments(tuned, Reading::quantized, data, 20);
  const auto now = weight_of(tuned).scale.read<float>(), was = weight_of(rounded).scale.read<float>();
  int scaled = 0;
  for (std::size_t c = 0; c < 20; ++c) {
    CHECK(is.mean[c] == doctest::Approx(wished.mean[c]).epsilon(1e-4));
    if (now[c] == was[c]) continue;
    ++scaled;
    CHECK(is.variance[c] == doctest::Approx(wished.variance[c]).epsilon(1e-4));
  }
  CHECK(scaled > 10);
  CHECK(output_error(g, tuned, data) < output_error(g, rounded, data));
}

TEST_CASE("tune_statistics: no layer gets worse, errors are as told, and bytes do not depend on threads") {
  const Graph plain = network();
  const auto data = correlated(plain, 16, 48, 24);
  for (const bool symmetric : {true, false}) {
    for (const Grain& grain : {channels, groups}) {
      for (const char* solver : {"round_nearest", "gptq"}) {
        Graph g = plain;
        decide(g, small_weights(symmetric ? number::int2 : number::uint2, grain, symmetric));
        PassBench one(std::make_shared<FixedData>(data)), three(std::make_shared<FixedData>(data), 3);
        const Graph rounded = one.run("round_nearest", one.run(solver, g));
        const Graph tuned = one.run("tune_statistics", rounded);
        CHECK(diff_graphs(tuned, three.run("tune_statistics", rounded)).empty());
        CHECK(diff_graphs(tuned, rounded) != "");
        int told = 0;
        for (const Json& fact : one.journal.facts()) {
          if (*fact.find("kind") != Json("layer") || *fact.find("pass") != Json("tune_statistics")) continue;
          ++told;
          CHECK(fact.find("error")->as_number() <= fact.find("error_before")->as_number());
        }
        CHECK(told == 3);
      }
    }
  }
}

TEST_CASE("tune_statistics: tells the error of what the layer puts out") {
  Graph g = layer(false);
  decide(g, small_weights(number::uint2, groups, false));
  const auto data = correlated(g, 16, 48, 12);
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph rounded = bench.run("round_nearest", g), tuned = bench.run("tune_statistics", rounded);
  const Json* layer = nullptr;
  for (const Json& fact : bench.journal.facts()) {
    if (*fact.find("kind") == Json("layer")) layer = &fact;
  }
  REQUIRE(layer);
  CHECK(layer->find("rows")->as_integer() == 12 * 16);
  CHECK(layer->find("error_before")->as_number() == doctest::Approx(output_error(g, rounded, data)).epsilon(1e-4));
  CHECK(layer->find("error")->as_number() == doctest::Approx(output_error(g, tuned, data)).epsilon(1e-4));
}

TEST_CASE("tune_statistics: scales beside float16 weights are float16 numbers") {
  Graph g = in_half(layer(true));
  decide(g, small_weights(number::uint2, groups, false));
  auto data = correlated(g, 16, 48, 12);
  for (Feeds& feeds : data) feeds.at(g.inputs[0]) = from_f32(feeds.at(g.inputs[0]), DType::f16);
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph rounded = bench.run("round_nearest", g), tuned = bench.run("tune_statistics", rounded);
  CHECK(!weight_of(tuned).scale.same_bytes(weight_of(rounded).scale));
  for (const float s : weight_of(tuned).scale.read<float>()) CHECK(f16_to_float(float_to_f16(s)) == s);
}

TEST_CASE("tune_statistics: one scale for all channels stays, and the bias moves") {
  Graph g = layer(true);
  decide(g, small_weights(number::int2, {}, true));
  const auto data = correlated(g, 16, 48, 12);
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph rounded = bench.run("round_nearest", g), tuned = bench.run("tune_statistics", rounded);
  CHECK(weight_of(tuned).scale.same_bytes(weight_of(rounded).scale));
  CHECK(floats_of(tuned, "b") != floats_of(g, "b"));
  Graph bare = layer(false);
  decide(bare, small_weights(number::int2, {}, true));
  const Graph same = bench.run("round_nearest", bare);
  CHECK(diff_graphs(bench.run("tune_statistics", same), same).empty());
  CHECK(contains(bench.skips(), "no scales of their own"));
}

TEST_CASE("tune_statistics: a Conv gets the bias that it has not") {
  Graph g = graph_of(R"(g (float[2, 2, 5, 5] x) => (float[2, 2, 4, 4] y)
    < float[2, 2, 2, 2] w = {0.31, -0.73, 0.52, 0.11, -0.94, 0.27, 0.45, 0.18, 0.37, -0.66, 0.83, 0.21, -0.14, 0.57, 0.35, 0.98} >
    { y = Conv (x, w) })");
  g[g.nodes()[0]].inputs[1].quant = small_weights(number::int2, {Grain::Kind::axis, 0, 0, 0}, true);
  std::vector<Feeds> data;
  for (int b = 0; b < 4; ++b) {
    Tensor x = normal({2, 2, 5, 5}, "x" + std::to_string(b));
    for (float& v : x.write<float>()) v += 1;
    data.push_back({{g.inputs[0], x}});
  }
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph rounded = bench.run("round_nearest", g), tuned = bench.run("tune_statistics", rounded);
  REQUIRE(tuned[tuned.nodes()[0]].inputs.size() == 3);
  CHECK(output_error(g, tuned, data) < output_error(g, rounded, data));
}

TEST_CASE("tune_statistics: what it leaves alone, and why") {
  Graph g = layer(true);
  const auto data = correlated(g, 16, 48, 4);
  PassBench bench(std::make_shared<FixedData>(data));
  CHECK(diff_graphs(bench.run("tune_statistics", g), g).empty());  // in float
  decide(g, small_weights(number::int2, channels, true));
  CHECK(diff_graphs(bench.run("tune_statistics", g), g).empty());
  CHECK(contains(bench.skips(), "behind round_nearest"));
  CHECK(contains(message_of(Code::calibration, [&] { PassBench().run("tune_statistics", g); }), "calibration data"));

  PassBench both(std::make_shared<FixedData>(data));
  const Graph corrected = both.run("bias_correct", both.run("round_nearest", g));
  CHECK(diff_graphs(both.run("tune_statistics", corrected), corrected).empty());
  CHECK(contains(both.skips(), "gave its mean back already"));
  PassBench other(std::make_shared<FixedData>(data));
  const Graph tuned = other.run("tune_statistics", other.run("round_nearest", g));
  CHECK(diff_graphs(other.run("bias_correct", tuned), tuned).empty());
  CHECK(contains(other.skips(), "gave its mean back already"));
}

TEST_CASE("tune_statistics: a weight of two nodes keeps its scales") {
  Graph g = graph_of(
      "g (float[16, 8] x) => (float[16, 8] y) < float[1] w = {1.0} > { h = MatMul (x, w) r = Relu (h) y = MatMul (r, "
      "w) }");
  Value& w = g[*g.find_value("w")];
  w.data = normal({8, 8}, "w", 0.2);
  w.type.shape = {8, 8};
  decide(g, small_weights(number::int2, channels, true));
  PassBench bench(std::make_shared<FixedData>(correlated(g, 16, 8, 4)));
  const Graph rounded = bench.run("round_nearest", g);
  CHECK(diff_graphs(bench.run("tune_statistics", rounded), rounded).empty());
  CHECK(contains(bench.skips(), "no scales of their own"));
}

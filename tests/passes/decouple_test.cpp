// SPDX-License-Identifier: Apache-2.0
// The ladder of methods (layerwise-optimizers.md sections 0 and 13).
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// The layer of section 0, smaller: heavy-tailed weights, inputs that hang together, six loud channels.
struct Bench {
  static constexpr std::int64_t n = 96, m = 64;
  Graph graph = graph_of("g (float[64, 96] x) => (float[64, 64] y) < float[1] w = {1.0} > { y = MatMul (x, w) }");
  std::vector<Feeds> data;

  explicit Bench(const NumberFormat& format) {
    Value& v = graph[*graph.find_value("w")];
    v.data = normal({n, m}, "w", 0.1);
    v.type.shape = {n, m};
    const Tensor tail = normal({n * m, 6}, "tail");
    const auto z = tail.read<float>();
    const auto w = v.data.write<float>();
    for (std::size_t i = 0; i < w.size(); ++i) {  // Student's t with 6 degrees of freedom
      float chi = 0;
      for (std::size_t k = 0; k < 6; ++k) chi += z[i * 6 + k] * z[i * 6 + k] / 6;
      w[i] /= std::sqrt(chi);
    }
    data = correlated(graph, 64, n, 16);
    for (Feeds& feeds : data) {
      const auto x = feeds.at(graph.inputs[0]).write<float>();
      for (std::size_t i = 0; i < x.size(); ++i) {
        if (i % n % 16 == 5) x[i] *= 12;
      }
    }
    decide(graph, small_weights(format, {Grain::Kind::axis, 1, 0, 0}, false));
  }

  double error(const std::string& pass, const Knobs& knobs = {}) const {
    PassBench bench(std::make_shared<FixedData>(data));
    const Graph solved = bench.run(pass, graph, knobs);
    const double found = output_error(graph, solved, data);
    for (const double own : numbers(bench.journal, "layer", "error")) {
      if (pass != "hqq") CHECK(own == doctest::Approx(found).epsilon(1e-3));
    }
    return found;
  }
};

}  // namespace

TEST_CASE("methods fall into the order of the measured ladder, at every width") {
  struct Row {
    const NumberFormat* format;
    double ada_round, gptq;  // of section 0, over nearest; with room for another layer
  };
  const Row rows[] = {{&number::uint2, 0.4, 0.2}, {&number::uint3, 0.5, 0.25}, {&number::uint4, 0.6, 0.35}};
  for (const Row& row : rows) {
    CAPTURE(row.format->name);
    const Bench bench(*row.format);
    const double nearest = bench.error("round_nearest"), hqq = bench.error("hqq");
    const double learned = bench.error("ada_round", {{"steps", "400"}}), moved = bench.error("ada_quant");
    const Knobs clipped{{"search", "false"}, {"clip", "block"}};
    Knobs swept = clipped, refitted = clipped;
    swept.push_back({"sweeps", "2"});
    refitted.push_back({"refit", "1"});
    const double gptq = bench.error("gptq", clipped), sweeps = bench.error("gptq", swept);
    const double refit = bench.error("gptq", refitted), decouple = bench.error("decouple");
    CAPTURE(nearest);
    CAPTURE(learned);
    CAPTURE(moved);
    CAPTURE(gptq);
    CAPTURE(sweeps);
    CAPTURE(refit);
    CAPTURE(decouple);
    CHECK(hqq < 1.05 * nearest);
    CHECK(learned < row.ada_round * nearest);
    CHECK(moved < row.ada_round * nearest);
    CHECK(gptq < row.gptq * nearest);
    CHECK(gptq < learned);
    CHECK(refit < gptq);
    CHECK(sweeps < 0.95 * gptq);
    CHECK(decouple < refit);
    CHECK(decouple < 1.05 * sweeps);
  }
}

TEST_CASE("decouple: two layers on one input and one behind them, the same for any number of threads") {
  const Graph plain = network();
  const auto data = correlated(plain, 16, 48, 24);
  for (const bool symmetric : {true, false}) {
    Graph g = plain;
    decide(g, small_weights(symmetric ? number::int3 : number::uint3, {Grain::Kind::groups, 0, 16, 0}, symmetric));
    PassBench one(std::make_shared<FixedData>(data)), three(std::make_shared<FixedData>(data), 3);
    const Graph solved = one.run("decouple", g);
    CHECK(diff_graphs(solved, three.run("decouple", g)).empty());
    CHECK(output_error(plain, solved, data) < 0.5 * output_error(plain, one.run("round_nearest", g), data));
    const auto before = numbers(one.journal, "layer", "error_nearest"), now = numbers(one.journal, "layer", "error");
    REQUIRE(now.size() == 3);
    for (std::size_t i = 0; i < now.size(); ++i) CHECK(now[i] < before[i]);
  }
}

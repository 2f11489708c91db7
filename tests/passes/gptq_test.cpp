// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "calib/executor.h"
#include "formats/ir/quant.h"
#include "passes/solve/stages.h"
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

TEST_CASE("gptq loses less of the outputs than rounding to nearest, the same for any number of threads") {
  const Graph plain = network();
  const auto data = correlated(plain, 16, 48, 24), fresh = correlated(plain, 16, 48, 30);
  const std::vector<Feeds> held(fresh.begin() + 24, fresh.end());
  for (const bool symmetric : {true, false}) {
    for (const std::int64_t group : {0, 16}) {
      Graph g = plain;
      const NumberFormat& format = symmetric ? number::int3 : number::uint3;
      const Grain grain = group == 0 ? Grain{Grain::Kind::axis, 1, 0, 0} : Grain{Grain::Kind::groups, 0, group, 0};
      decide(g, small_weights(format, grain, symmetric));
      PassBench bench(std::make_shared<FixedData>(data));
      const double nearest = output_error(plain, bench.run("round_nearest", g), held);
      const Knobs variants[] = {{{"search", "false"}, {"order", "none"}, {"clip", "minmax"}},
                                {{"search", "false"}, {"order", "none"}, {"scales", "dynamic"}},
                                {{"search", "false"}, {"order", "gar"}, {"clip", "weighted"}, {"scales", "dynamic"}},
                                {{"search", "false"}, {"clip", "block"}},
                                {},
                                {{"inputs", "float"}},
                                {{"asymmetric", "0.5"}},
                                {{"sweeps", "2"}},
                                {{"sweeps", "2"}, {"refit", "2"}}};
      for (const Knobs& knobs : variants) {
        const Graph solved = bench.run("gptq", g, knobs);
        CHECK(output_error(plain, solved, held) < 0.7 * nearest);
        Threads three(3);
        Journal journal;
        for (const NodeId n : solved.nodes()) {
          if (solved[n].op != "MatMul") continue;
          const QuantSpec& spec = *solved[n].inputs[1].quant;
          CHECK(spec.codes.shape() == solved[solved[n].inputs[1].value].data.shape());
        }
      }
      CHECK(bench.count("layer") == 9 * 3);
    }
  }
}

TEST_CASE("gptq: inputs that are all alike or missing are told, and codes are there all the same") {
  Graph g = network();
  decide(g, small_weights(number::int4, {Grain::Kind::groups, 0, 16, 0}, true));
  std::vector<Feeds> zeros{{{g.inputs[0], Tensor(DType::f32, {16, 48})}}};
  PassBench bench(std::make_shared<FixedData>(zeros));
  const Graph solved = bench.run("gptq", g);
  for (const NodeId n : solved.nodes()) {
    if (solved[n].op == "MatMul") CHECK_FALSE(solved[n].inputs[1].quant->codes.empty());
  }
  CHECK(bench.count("warning") >= 3);  // fewer rows than columns
  PassBench none;
  CHECK(message_of(Code::calibration, [&] { none.run("gptq", g); }).find("there are no data") != std::string::npos);
}

TEST_CASE("gptq: a weight that two nodes share is decided once, for the inputs of both") {
  Graph g = graph_of(R"(g (float[16, 32] x) => (float[16, 32] y) < float[1] w = {1.0} >
    { h = MatMul (x, w) r = Relu (h) y = MatMul (r, w) })");
  g[*g.find_value("w")].data = normal({32, 32}, "w", 0.2);
  g[*g.find_value("w")].type.shape = {32, 32};
  decide(g, small_weights(number::int4, {Grain::Kind::groups, 0, 16, 0}, true));
  PassBench bench(std::make_shared<FixedData>(correlated(g, 16, 32, 8)));
  const Graph solved = bench.run("gptq", g);
  const auto nodes = solved.nodes();
  CHECK(solved[nodes[0]].inputs[1].quant == solved[nodes[2]].inputs[1].quant);
  CHECK_FALSE(solved[nodes[0]].inputs[1].quant->codes.empty());
  REQUIRE(bench.count("layer") == 1);
}

TEST_CASE("gptq: scales beside weights in float16 are numbers of that type") {
  Graph g = in_half(network());
  decide(g, small_weights(number::uint4, {Grain::Kind::groups, 0, 16, 0}, false));
  auto data = correlated(g, 16, 48, 8);
  for (Feeds& feeds : data) {
    for (auto& [v, x] : feeds) x = from_f32(x, DType::f16);
  }
  PassBench bench(std::make_shared<FixedData>(data));
  const Graph solved = bench.run("gptq", g);
  for (const NodeId n : solved.nodes()) {
    if (solved[n].op != "MatMul") continue;
    const QuantSpec& spec = *solved[n].inputs[1].quant;
    CHECK(spec.second_scale.empty());
    CHECK(to_f32(from_f32(spec.scale, DType::f16)).same_bytes(spec.scale));
  }
}

TEST_CASE("gptq: tokens that only fill up a batch do not count (gptq.md 3.1)") {
  const auto model = [](std::int64_t tokens) {
    Graph g =
        graph_of("g (float[1, " + std::to_string(tokens) + ", 24] x, int64[1, " + std::to_string(tokens) +
                 "] attention_mask) => (float[1, " + std::to_string(tokens) +
                 ", 16] y, float m) < float[1] w = {1.0} > { y = MatMul (x, w) f = Cast <to = 1> (attention_mask) "
                 "m = ReduceSum <keepdims = 0> (f) }");
    g[*g.find_value("w")].data = normal({24, 16}, "w", 0.2);
    g[*g.find_value("w")].type.shape = {24, 16};
    decide(g, small_weights(number::int3, {Grain::Kind::groups, 0, 8, 0}, true));
    return g;
  };
  const std::int64_t length = 200, filled = 250;
  const Tensor real = normal({1, length, 24}, "real");
  Tensor padded = normal({1, filled, 24}, "padding", 50);
  std::copy_n(real.read<float>().begin(), length * 24, padded.write<float>().begin());
  Tensor ones(DType::i64, {1, length}), mask(DType::i64, {1, filled});
  for (auto& v : ones.write<std::int64_t>()) v = 1;
  std::fill_n(mask.write<std::int64_t>().begin(), length, 1);
  const auto codes = [&](const Tensor& x, const Tensor& m, const Knobs& knobs) {
    const Graph g = model(x.shape()[1]);
    PassBench bench(std::make_shared<FixedData>(std::vector<Feeds>{{{g.inputs[0], x}, {g.inputs[1], m}}}));
    return bench.run("gptq", g, knobs)[g.nodes()[0]].inputs[1].quant->codes;
  };
  for (const Knobs& knobs : {Knobs{}, Knobs{{"inputs", "float"}}}) {
    CHECK(codes(real, ones, knobs).same_bytes(codes(padded, mask, knobs)));
  }
}

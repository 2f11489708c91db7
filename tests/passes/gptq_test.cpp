// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "calib/executor.h"
#include "formats/ir/quant.h"
#include "passes/solve/layer.h"
#include "passes/solve/stages.h"
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// One product of x by a weight of random numbers.
Graph product(const std::string& op, const std::string& attributes, const Shape& x, const Shape& w) {
  Graph g = graph_of("g (float[1] x) => (float[1] y) < float[1] w = {1.0} > { y = " + op + attributes + " (x, w) }");
  g[*g.find_value("w")].data = normal(w, "w");
  g[*g.find_value("w")].type.shape = w;
  g[g.inputs[0]].type.shape = x;
  g[g.outputs[0].value].type.known_rank = false;
  return g;
}

}  // namespace

TEST_CASE("rows of inputs times matrices of weights are what the operator computes (gptq.md 3.1)") {
  struct Row {
    const char *op, *attributes;
    Shape x, w;
  };
  const Row rows[] = {
      {"MatMul", "", {2, 3, 5}, {5, 4}},
      {"Gemm", "", {6, 5}, {5, 4}},
      {"Gemm", "<transB = 1>", {6, 5}, {4, 5}},
      {"Gemm", "<transA = 1>", {5, 6}, {5, 4}},
      {"Conv", "<pads = [1, 0, 1, 2], strides = [2, 1], dilations = [1, 2]>", {2, 3, 9, 8}, {4, 3, 3, 2}},
      {"Conv", "<group = 2, auto_pad = \"SAME_UPPER\">", {1, 4, 7, 7}, {6, 2, 3, 3}},
      {"Conv", "<group = 4>", {2, 4, 6, 6}, {4, 1, 3, 3}},
      {"Conv", "<pads = [1, 1]>", {2, 3, 10}, {5, 3, 3}},
      {"ConvTranspose", "<strides = [2, 2], pads = [1, 0, 0, 1], output_padding = [1, 1]>", {2, 3, 5, 4}, {3, 4, 3, 3}},
      {"ConvTranspose", "<group = 2, strides = [3], dilations = [2]>", {1, 4, 6}, {4, 3, 2}},
  };
  Threads threads(1);
  for (const Row& row : rows) {
    CAPTURE(row.op);
    CAPTURE(row.attributes);
    const Graph g = product(row.op, row.attributes, row.x, row.w);
    const auto p = product_of(g, g.nodes()[0]);
    REQUIRE(p);
    const solve::Layer layer(g, *p);
    const Tensor x = normal(row.x, "x");
    const Tensor y = Executor(g, Reading::reference, threads).run({{g.inputs[0], x}})[0];
    const auto want = y.read<float>();
    const auto w = g[*g.find_value("w")].data.read<float>();
    std::int64_t seen = 0;
    double worst = 0;
    const bool spatial = row.x.size() > 2 && std::string(row.op) != "MatMul";
    const std::int64_t channels = spatial ? y.shape()[1] : 0,
                       positions = spatial ? y.count() / y.shape()[0] / channels : 0;
    for (std::int64_t i = 0; i < layer.matrices(); ++i) {
      const std::vector<float> columns = layer.by_columns(w, i);
      std::int64_t t = 0;
      layer.for_each_rows(x, i, Rng(1), threads, [&](std::span<const float> part) {
        for (std::size_t at = 0; at < part.size(); at += static_cast<std::size_t>(layer.columns()), ++t) {
          for (std::int64_t r = 0; r < layer.rows(); ++r, ++seen) {
            double sum = 0;
            for (std::int64_t c = 0; c < layer.columns(); ++c) {
              sum += static_cast<double>(part[at + static_cast<std::size_t>(c)]) *
                     columns[static_cast<std::size_t>(c * layer.rows() + r)];
            }
            const std::int64_t out =
                spatial ? ((t / positions) * channels + i * layer.rows() + r) * positions + t % positions
                        : t * layer.rows() + r;
            worst = std::max(worst, std::abs(sum - want[static_cast<std::size_t>(out)]));
          }
        }
      });
    }
    CHECK(seen == y.count());
    CHECK(worst < 1e-4);
  }
}

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

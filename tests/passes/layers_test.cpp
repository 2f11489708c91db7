// SPDX-License-Identifier: Apache-2.0
// Rows that layers see, and gptq on layers other than plain products.
#include <algorithm>
#include <cmath>

#include "calib/executor.h"
#include "passes/solve/layer.h"
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// Of all rows that a layer sees of matrix i, W x: one after the other, in the order of the rows.
std::vector<double> products(const solve::Layer& layer, const Tensor& weight, std::span<const Tensor> inputs,
                             std::int64_t i) {
  Threads threads(1);
  const auto w = layer.by_columns(weight.read<float>(), i);
  std::vector<double> all;
  const auto m = static_cast<std::size_t>(layer.rows()), n = static_cast<std::size_t>(layer.columns());
  layer.for_each_rows(inputs, i, Rng(1), threads, [&](std::span<const float> rows) {
    for (std::size_t at = 0; at < rows.size(); at += n) {
      for (std::size_t r = 0; r < m; ++r) {
        double sum = 0;
        for (std::size_t c = 0; c < n; ++c) sum += static_cast<double>(rows[at + c]) * w[c * m + r];
        all.push_back(sum);
      }
    }
  });
  return all;
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
      const auto columns = layer.by_columns(w, i);
      std::int64_t t = 0;
      layer.for_each_rows({&x, 1}, i, Rng(1), threads, [&](std::span<const float> part) {
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

TEST_CASE("each matrix of a batched MatMul sees the slices that it is multiplied with (gptq.md 3.1)") {
  struct Row {
    Shape x, w;
  };
  Threads threads(1);
  for (const Row& row : {Row{{2, 3, 5}, {2, 5, 4}}, Row{{3, 5}, {2, 5, 4}}, Row{{6, 2, 3, 5}, {2, 5, 4}},
                         Row{{2, 1, 3, 5}, {2, 3, 5, 4}}, Row{{2, 3, 1, 5}, {1, 3, 5, 4}}, Row{{5}, {3, 5, 4}},
                         Row{{4, 3, 5}, {1, 5, 2}}}) {
    CAPTURE(to_string(row.x));
    CAPTURE(to_string(row.w));
    const Graph g = product("MatMul", "", row.x, row.w);
    const auto layers = solve::Layer::of(g, g.nodes()[0]);
    REQUIRE(layers.size() == 1);
    const Tensor x = normal(row.x, "x"), &w = g[*g.find_value("w")].data;
    // With 1, 2, 3, ... in place of the outputs that a matrix makes: which ones they are.
    const Tensor y = Executor(g, Reading::reference, threads).run({{g.inputs[0], x}})[0];
    std::vector<double> seen;
    for (std::int64_t i = 0; i < layers[0].matrices(); ++i) {
      const std::vector<double> some = products(layers[0], w, {&x, 1}, i);
      seen.insert(seen.end(), some.begin(), some.end());
    }
    REQUIRE(static_cast<std::int64_t>(seen.size()) == y.count());
    std::vector<double> want(y.read<float>().begin(), y.read<float>().end());
    std::sort(seen.begin(), seen.end());
    std::sort(want.begin(), want.end());
    double worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(want[i] - seen[i]));
    CHECK(worst < 1e-4);
  }
}

TEST_CASE("W and R of recurrent operators see steps and states: with their products gates come out as they should") {
  // A cell that is one product: f = identity (Affine 1, 0) in an RNN, so that h_t = W x_t + R h_(t-1).
  constexpr std::int64_t steps = 5, batch = 3, inputs = 4, hidden = 6;
  Threads threads(1);
  for (const char* direction : {"forward", "reverse", "bidirectional"}) {
    for (const bool lengths : {false, true}) {
      CAPTURE(direction);
      CAPTURE(lengths);
      const std::int64_t d = direction == std::string("bidirectional") ? 2 : 1;
      const std::string twice = d == 2 ? "\"Affine\", \"Affine\"" : "\"Affine\"", ones = d == 2 ? "1.0, 1.0" : "1.0",
                        zeros = d == 2 ? "0.0, 0.0" : "0.0";
      Graph g = graph_of(
          "g (float[5, 3, 4] x, int32[3] l) => (float[1] y) < float[1] w = {1.0}, float[1] r = {1.0}, float[1] h = "
          "{1.0} > "
          "{ y = RNN <hidden_size = 6, direction = \"" +
          std::string(direction) + "\", activations = [" + twice + "], activation_alpha = [" + ones +
          "], activation_beta = [" + zeros + "]> (x, w, r, , " + (lengths ? "l" : "") + ", h) }");
      const std::pair<const char*, Shape> weights[] = {
          {"w", {d, hidden, inputs}}, {"r", {d, hidden, hidden}}, {"h", {d, batch, hidden}}};
      for (const auto& [name, shape] : weights) {
        g[*g.find_value(name)].data = normal(shape, name, 0.3);
        g[*g.find_value(name)].type.shape = shape;
      }
      g[g.outputs[0].value].type.known_rank = false;
      const Tensor x = normal({steps, batch, inputs}, "x");
      Tensor l(DType::i32, {batch});
      const std::int32_t each[] = {5, 2, 4};
      for (std::size_t i = 0; i < 3; ++i) l.write<std::int32_t>()[i] = lengths ? each[i] : 5;
      const Tensor y = Executor(g, Reading::reference, threads).run({{g.inputs[0], x}, {g.inputs[1], l}})[0];
      const auto layers = solve::Layer::of(g, g.nodes()[0]);
      REQUIRE(layers.size() == 2);
      std::vector<Tensor> all{x,  g[*g.find_value("w")].data, g[*g.find_value("r")].data,
                              {}, lengths ? l : Tensor(),     g[*g.find_value("h")].data};
      double sum = 0, want = 0;
      std::size_t states = 0, rows = 0;
      for (std::int64_t i = 0; i < d; ++i) {
        // Sums of W x and of R h over all steps make up the sum of all outputs, weighed by unit.
        for (const double v : products(layers[0], all[1], all, i)) sum += v, ++rows;
        for (const double v : products(layers[1], all[2], all, i)) sum += v, ++states;
      }
      for (const float v : y.read<float>()) want += static_cast<double>(v);
      CHECK(rows == states);
      CHECK(rows == static_cast<std::size_t>(d * hidden * (lengths ? 11 : 15)));
      CHECK(std::abs(sum - want) < 1e-3);
    }
  }
}

TEST_CASE("the candidate of a GRU that resets first sees the state behind the reset gate") {
  constexpr std::int64_t batch = 2, hidden = 4;
  Graph g = graph_of(
      "g (float[1, 2, 3] x) => (float[1] y) < float[1] w = {1.0}, float[1] r = {1.0}, float[1] h = {1.0} > "
      "{ y = GRU <hidden_size = 4> (x, w, r, , , h) }");
  const std::pair<const char*, Shape> weights[] = {{"w", {1, 12, 3}}, {"r", {1, 12, 4}}, {"h", {1, 2, 4}}};
  for (const auto& [name, shape] : weights) {
    g[*g.find_value(name)].data = normal(shape, name, 0.5);
    g[*g.find_value(name)].type.shape = shape;
  }
  const Tensor x = normal({1, batch, 3}, "x");
  const std::vector<Tensor> all{x,  g[*g.find_value("w")].data, g[*g.find_value("r")].data, {},
                                {}, g[*g.find_value("h")].data};
  const auto layers = solve::Layer::of(g, g.nodes()[0]);
  REQUIRE(layers.size() == 2);
  REQUIRE(layers[1].matrices() == 3);
  REQUIRE(layers[1].rows() == hidden);
  const std::vector<double> from_x = products(layers[0], all[1], all, 0), update = products(layers[1], all[2], all, 0),
                            reset = products(layers[1], all[2], all, 1),
                            candidate = products(layers[1], all[2], all, 2);
  Threads threads(1);
  Graph wanted = g;
  wanted[wanted.outputs[0].value].type.known_rank = false;
  const Tensor y = Executor(wanted, Reading::reference, threads).run({{g.inputs[0], x}})[0];
  const auto h = all[5].read<float>();
  double worst = 0;
  for (std::size_t b = 0; b < 2; ++b) {
    for (std::size_t j = 0; j < 4; ++j) {
      const double z = 1 / (1 + std::exp(-from_x[b * 12 + j] - update[b * 4 + j]));
      const double n = std::tanh(from_x[b * 12 + 8 + j] + candidate[b * 4 + j]);
      worst =
          std::max(worst, std::abs((1 - z) * n + z * static_cast<double>(h[b * 4 + j]) - y.read<float>()[b * 4 + j]));
    }
  }
  CHECK(reset.size() == 8);
  CHECK(worst < 1e-5);
}

TEST_CASE("gptq: batched and recurrent weights lose less of the outputs than rounded to nearest ones") {
  const auto blocks = [](int axis) { return small_weights(number::int3, {Grain::Kind::groups, axis, 16, 0}, true); };
  struct Row {
    std::string graph;
    std::vector<std::pair<const char*, Shape>> weights;
    std::vector<std::pair<std::size_t, int>> decided;  // position, axis
  };
  const std::string types = "float[1] w = {1.0}, float[1] r = {1.0}",
                    sequence = "g (float[16, 4, 48] x) => (float[1] y) < ";
  const Row rows[] = {
      {"g (float[2, 32, 48] x) => (float[1] y) < float[1] w = {1.0} > { y = MatMul (x, w) }",
       {{"w", {2, 48, 20}}},
       {{1, 1}}},
      {sequence + types + " > { y = LSTM <hidden_size = 32> (x, w, r) }",
       {{"w", {1, 128, 48}}, {"r", {1, 128, 32}}},
       {{1, 2}, {2, 2}}},
      {sequence + types + " > { y = GRU <hidden_size = 32, direction = \"bidirectional\"> (x, w, r) }",
       {{"w", {2, 96, 48}}, {"r", {2, 96, 32}}},
       {{1, 2}, {2, 2}}},
      {sequence + types + " > { y = GRU <hidden_size = 32, linear_before_reset = 1> (x, w, r) }",
       {{"w", {1, 96, 48}}, {"r", {1, 96, 32}}},
       {{1, 2}, {2, 2}}},
      {sequence + types + " > { y = RNN <hidden_size = 32, direction = \"reverse\"> (x, w, r) }",
       {{"w", {1, 32, 48}}, {"r", {1, 32, 32}}},
       {{1, 2}, {2, 2}}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.graph);
    Graph g = graph_of(row.graph);
    for (const auto& [name, shape] : row.weights) {
      g[*g.find_value(name)].data = normal(shape, name, 0.15);
      g[*g.find_value(name)].type.shape = shape;
    }
    g[g.outputs[0].value].type.known_rank = false;
    const Graph plain = g;
    for (const auto& [position, axis] : row.decided) g[g.nodes()[0]].inputs[position].quant = blocks(axis);
    auto data = correlated(g, 64, 48, 12);
    for (Feeds& feeds : data) {
      for (auto& [v, x] : feeds) x = x.reshaped(g[g.inputs[0]].type.shape);
    }
    const std::vector<Feeds> held(data.begin() + 8, data.end());
    data.resize(8);
    const auto given = std::make_shared<FixedData>(data);
    PassBench plainly(given), three(given, 3);
    const double nearest = output_error(plain, plainly.run("round_nearest", g), held);
    for (const Knobs& knobs : {Knobs{}, Knobs{{"inputs", "float"}}, Knobs{{"asymmetric", "0.5"}}}) {
      PassBench bench(given);
      const Graph solved = bench.run("gptq", g, knobs);
      CHECK(diff_graphs(solved, three.run("gptq", g, knobs)).empty());
      CHECK(output_error(plain, solved, held) < 0.8 * nearest);
      CHECK(bench.count("skip") == 0);
      const auto before = numbers(bench.journal, "layer", "error_nearest"),
                 now = numbers(bench.journal, "layer", "error");
      REQUIRE(now.size() == row.decided.size());
      if (knobs.empty()) {
        for (std::size_t i = 0; i < now.size(); ++i) CHECK(now[i] < 0.8 * before[i]);
      }
    }
  }
}

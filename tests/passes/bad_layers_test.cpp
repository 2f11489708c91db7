// SPDX-License-Identifier: Apache-2.0
// Inputs and weights that passes which weigh errors by inputs must survive: too few rows, Hessians without inverse or
// with columns far apart, inputs that are always zero or not finite, groups that do not divide, weights of two nodes.
#include <cmath>
#include <limits>

#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

namespace {

const std::vector<std::pair<std::string, Knobs>>& solvers() {
  static const std::vector<std::pair<std::string, Knobs>> all{
      {"gptq", {}},
      {"gptq", {{"sweeps", "2"}, {"refit", "1"}, {"asymmetric", "0.5"}}},
      {"decouple", {}},
      {"ada_round", {{"steps", "50"}}},
      {"ada_quant", {{"steps", "50"}}}};
  return all;
}

const Grain groups{Grain::Kind::groups, 0, 16, 0};

/// One MatMul of `n` inputs by 20 outputs, any number of rows.
Graph layer(std::int64_t n) {
  Graph g = graph_of("g (float[R, " + std::to_string(n) + "] x) => (float[R, 20] y) < float[1] w = {1.0} > " +
                     "{ y = MatMul (x, w) }");
  Value& w = g[*g.find_value("w")];
  w.data = normal({n, 20}, "w", 0.2);
  w.type.shape = {n, 20};
  decide(g, small_weights(number::uint3, groups, false));
  return g;
}

/// The weight of the last node.
Use& weight_of(Graph& g) { return g[Links(g).producer(g.outputs[0].value)].inputs[1]; }

const QuantSpec& decision(const Graph& g) { return *g[Links(g).producer(g.outputs[0].value)].inputs[1].quant; }

/// Scales are numbers above zero, and what codes lose of outputs is not more than nearest ones do.
void check_sane(const Graph& g, const Graph& solved, const PassBench& bench) {
  const QuantSpec& spec = decision(solved);
  CHECK(spec.codes.shape() == g[*g.find_value("w")].data.shape());
  CHECK(spec.scale.shape() == scale_shape(spec.grain, spec.codes.shape()));
  for (const float s : spec.scale.read<float>()) CHECK((std::isfinite(s) && s > 0));
  const auto before = numbers(bench.journal, "layer", "error_nearest"), now = numbers(bench.journal, "layer", "error");
  REQUIRE(now.size() == 1);
  CHECK(std::isfinite(now[0]));
  CHECK(now[0] <= before[0] * (1 + 1e-9));
}

std::vector<std::string> warnings(const PassBench& bench) {
  std::vector<std::string> all;
  for (const Json& fact : bench.journal.facts()) {
    if (*fact.find("kind") == Json("warning")) all.push_back(fact.find("text")->as_string());
  }
  return all;
}

/// Calls f(x, row, column) for every number of all batches.
template <class F>
void each(const Graph& g, std::vector<Feeds>& data, std::int64_t n, const F& f) {
  std::int64_t row = 0;
  for (Feeds& feeds : data) {
    const auto x = feeds.at(g.inputs[0]).write<float>();
    for (std::size_t i = 0; i < x.size(); ++i) {
      f(x[i], row + static_cast<std::int64_t>(i) / n, static_cast<std::int64_t>(i) % n);
    }
    row += static_cast<std::int64_t>(x.size()) / n;
  }
}

}  // namespace

TEST_CASE("too few samples for the width are told with the number that is needed") {
  const Graph g = layer(48);
  for (const auto& [pass, knobs] : solvers()) {
    CAPTURE(pass);
    PassBench few(std::make_shared<FixedData>(correlated(g, 5, 48, 2)));
    check_sane(g, few.run(pass, g, knobs), few);
    CHECK(warnings(few) ==
          std::vector<std::string>{
              "\"y\" saw 10 rows of inputs for 48 weights each: give at least 192 to trust its codes"});
    PassBench enough(std::make_shared<FixedData>(correlated(g, 16, 48, 3)));
    enough.run(pass, g, knobs);
    CHECK(warnings(enough).empty());
  }
}

TEST_CASE("Hessians without an inverse, with dead inputs or with columns far apart") {
  const Graph g = layer(48);
  struct Case {
    const char* name;
    void (*change)(float&, std::int64_t, std::int64_t);
  };
  const Case cases[] = {
      {"one row over and over", [](float& x, std::int64_t, std::int64_t c) { x = static_cast<float>(c % 7) - 3; }},
      {"two columns alike", [](float& x, std::int64_t r, std::int64_t c) { x = c < 2 ? std::sin(float(r)) : x; }},
      {"nothing but zeros", [](float& x, std::int64_t, std::int64_t) { x = 0; }},
      {"a whole group and one more dead", [](float& x, std::int64_t, std::int64_t c) { x = c < 17 ? 0 : x; }},
      {"columns from 1e-12 to 1e12",
       [](float& x, std::int64_t, std::int64_t c) { x *= std::pow(10.0F, static_cast<float>(c) / 2 - 12); }},
      {"squares above float32", [](float& x, std::int64_t, std::int64_t) { x *= 1e25F; }},
      {"squares below float32", [](float& x, std::int64_t, std::int64_t) { x *= 1e-25F; }},
  };
  for (const Case& one : cases) {
    CAPTURE(one.name);
    auto data = correlated(g, 16, 48, 8);
    each(g, data, 48, one.change);
    for (const auto& [pass, knobs] : solvers()) {
      CAPTURE(pass);
      PassBench bench(std::make_shared<FixedData>(data));
      check_sane(g, bench.run(pass, g, knobs), bench);
    }
  }
}

TEST_CASE("rows that are not finite are left out and counted") {
  const Graph g = layer(48);
  auto data = correlated(g, 16, 48, 8), clean = data;
  each(g, data, 48, [](float& x, std::int64_t r, std::int64_t c) {
    if (r == 127 && c == 5) x = std::numeric_limits<float>::infinity();
    if (r == 126 && c == 7) x = std::numeric_limits<float>::quiet_NaN();
  });
  Feeds& last = clean.back();  // the same without these two rows
  Tensor less(DType::f32, {14, 48});
  std::copy_n(last.at(g.inputs[0]).read<float>().begin(), 14 * 48, less.write<float>().begin());
  last.at(g.inputs[0]) = less;
  for (const auto& [pass, knobs] : solvers()) {
    CAPTURE(pass);
    PassBench bench(std::make_shared<FixedData>(data)), other(std::make_shared<FixedData>(clean));
    const Graph solved = bench.run(pass, g, knobs);
    check_sane(g, solved, bench);
    CHECK(warnings(bench) ==
          std::vector<std::string>{"2 of 128 input rows of \"y\" hold NaN or infinity and were left out"});
    CHECK(diff_graphs(solved, other.run(pass, g, knobs)).empty());
  }
}

TEST_CASE("activations that overflow in a late layer cost that layer those rows") {
  Graph g = graph_of(R"(g (float[16, 48] x) => (float[16, 20] y) < float[1] a = {1.0}, float[1] w = {1.0} >
    { h = MatMul (x, a) r = Exp (h) y = MatMul (r, w) })");
  for (const auto& [name, shape] : {std::pair<const char*, Shape>{"a", {48, 40}}, {"w", {40, 20}}}) {
    Value& v = g[*g.find_value(name)];
    v.data = normal(shape, name, 0.05);
    v.type.shape = shape;
  }
  weight_of(g).quant = small_weights(number::uint3, groups, false);
  auto data = correlated(g, 16, 48, 8);
  each(g, data, 48, [](float& x, std::int64_t r, std::int64_t) { x *= r == 3 ? 1e4F : 1.0F; });
  for (const auto& [pass, knobs] : solvers()) {
    CAPTURE(pass);
    PassBench bench(std::make_shared<FixedData>(data));
    check_sane(g, bench.run(pass, g, knobs), bench);
    CHECK(warnings(bench) ==
          std::vector<std::string>{"1 of 128 input rows of \"y\" hold NaN or infinity and were left out"});
  }
}

TEST_CASE("a group that does not divide the inputs leaves a shorter one") {
  for (const std::int64_t n : {40, 17, 16, 7}) {
    CAPTURE(n);
    const Graph g = layer(n);
    for (const auto& [pass, knobs] : solvers()) {
      CAPTURE(pass);
      PassBench bench(std::make_shared<FixedData>(correlated(g, 16, n, 8)));
      const Graph solved = bench.run(pass, g, knobs);
      check_sane(g, solved, bench);
      CHECK(decision(solved).scale.shape() == Shape{(n + 15) / 16, 20});
    }
  }
}

TEST_CASE("a weight that two nodes read with different inputs is decided once, a tied table stays as it is") {
  Graph g = graph_of(R"(g (int64[16] i, float[16, 32] x) => (float[16, 32] y) < float[1] w = {1.0} >
    { e = Gather (w, i) s = Add (e, x) h = MatMul (s, w) r = Relu (h) y = MatMul (r, w) })");
  g[*g.find_value("w")].data = normal({32, 32}, "w", 0.2);
  g[*g.find_value("w")].type.shape = {32, 32};
  decide(g, small_weights(number::uint3, groups, false));
  std::vector<Feeds> data;
  for (int b = 0; b < 8; ++b) {
    Tensor i(DType::i64, {16});
    for (std::int64_t k = 0; k < 16; ++k) i.write<std::int64_t>()[static_cast<std::size_t>(k)] = (5 * k + b) % 32;
    data.push_back({{g.inputs[0], i}, {g.inputs[1], normal({16, 32}, "x" + std::to_string(b))}});
  }
  for (const auto& [pass, knobs] : solvers()) {
    CAPTURE(pass);
    PassBench bench(std::make_shared<FixedData>(data));
    const Graph solved = bench.run(pass, g, knobs);
    check_sane(g, solved, bench);
    int readers = 0;
    for (const NodeId n : solved.nodes()) {
      if (solved[n].op == "Gather") CHECK(!solved[n].inputs[0].quant);
      if (solved[n].op != "MatMul") continue;
      ++readers;
      CHECK(solved[n].inputs[1].quant.get() == &decision(solved));
    }
    CHECK(readers == 2);
    CHECK(numbers(bench.journal, "layer", "rows") == std::vector<double>{2 * 8 * 16});
  }
}

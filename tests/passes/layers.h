// SPDX-License-Identifier: Apache-2.0
// Layers and inputs for tests of passes that weigh errors by the inputs of layers.
#pragma once

#include <string>
#include <vector>

#include "calib/executor.h"
#include "formats/ir/quant.h"
#include "tests/passes/bench.h"

namespace qtool::test {

inline Tensor normal(const Shape& shape, std::string_view name, double scale = 1) {
  Tensor t(DType::f32, shape);
  const Rng rng(5, "data", name);
  std::uint64_t i = 0;
  for (float& v : t.write<float>()) v = static_cast<float>(scale * rng.normal(i++));
  return t;
}

/// One product of x by a weight of random numbers.
inline Graph product(const std::string& op, const std::string& attributes, const Shape& x, const Shape& w) {
  Graph g = graph_of("g (float[1] x) => (float[1] y) < float[1] w = {1.0} > { y = " + op + attributes + " (x, w) }");
  g[*g.find_value("w")].data = normal(w, "w");
  g[*g.find_value("w")].type.shape = w;
  g[g.inputs[0]].type.shape = x;
  g[g.outputs[0].value].type.known_rank = false;
  return g;
}

/// Batches whose columns hang together: a few directions carry most of what there is.
inline std::vector<Feeds> correlated(const Graph& g, std::int64_t rows, std::int64_t n, int count) {
  const Tensor mixing = normal({6, n}, "mixing");
  const auto mix = mixing.read<float>();
  std::vector<Feeds> all;
  for (int b = 0; b < count; ++b) {
    Tensor latent = normal({rows, 6}, "latent" + std::to_string(b)),
           x = normal({rows, n}, "x" + std::to_string(b), 0.2);
    const auto l = latent.read<float>();
    const auto v = x.write<float>();
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < n; ++c) {
        for (std::int64_t k = 0; k < 6; ++k) {
          v[static_cast<std::size_t>(r * n + c)] +=
              l[static_cast<std::size_t>(r * 6 + k)] * mix[static_cast<std::size_t>(k * n + c)];
        }
      }
    }
    all.push_back({{g.inputs[0], x}});
  }
  return all;
}

inline Quant small_weights(const NumberFormat& format, Grain grain, bool symmetric) {
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &format;
  spec->grain = grain;
  spec->symmetric = symmetric;
  return spec;
}

inline double output_error(const Graph& before, const Graph& after, const std::vector<Feeds>& data) {
  Threads threads(1);
  const Executor a(before, Reading::reference, threads), b(after, Reading::quantized, threads);
  double noise = 0, signal = 0;
  for (const Feeds& feeds : data) {
    const Tensor x = a.run(feeds)[0], y = b.run(feeds)[0];
    const auto p = x.read<float>(), q = y.read<float>();
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double e = static_cast<double>(p[i]) - q[i];
      noise += e * e;
      signal += static_cast<double>(p[i]) * p[i];
    }
  }
  return noise / signal;
}

/// x -> MatMul -> Relu -> two MatMuls of one value -> Add.
inline Graph network() {
  Graph g = graph_of(R"(g (float[16, 48] x) => (float[16, 20] y)
    < float[1] a = {1.0}, float[1] b = {1.0}, float[1] c = {1.0} >
    { h = MatMul (x, a) r = Relu (h) p = MatMul (r, b) q = MatMul (r, c) y = Add (p, q) })");
  const std::pair<const char*, Shape> weights[] = {{"a", {48, 40}}, {"b", {40, 20}}, {"c", {40, 20}}};
  for (const auto& [name, shape] : weights) {
    Value& v = g[*g.find_value(name)];
    v.data = normal(shape, name, 0.2);
    v.type.shape = shape;
  }
  return g;
}

inline void decide(Graph& g, const Quant& quant) {
  for (const NodeId n : g.nodes()) {
    if (g[n].op == "MatMul") g[n].inputs[1].quant = quant;
  }
}

/// Member `key` of the facts of `kind`, in order.
inline std::vector<double> numbers(const Journal& journal, const std::string& kind, const std::string& key) {
  std::vector<double> all;
  for (const Json& fact : journal.facts()) {
    if (fact.find("kind")->as_string() == kind) all.push_back(fact.find(key)->as_number());
  }
  return all;
}

/// A pass that learns codes: no layer gets worse, most get better, and bytes do not depend on threads.
inline void check_learned(const std::string& pass) {
  const Graph plain = network();
  const auto data = correlated(plain, 16, 48, 24);
  const Knobs knobs{{"steps", "300"}};
  for (const bool symmetric : {true, false}) {
    for (const std::int64_t group : {0, 16}) {
      CAPTURE(symmetric);
      CAPTURE(group);
      Graph g = plain;
      const Grain grain = group == 0 ? Grain{Grain::Kind::axis, 1, 0, 0} : Grain{Grain::Kind::groups, 0, group, 0};
      decide(g, small_weights(symmetric ? number::int3 : number::uint3, grain, symmetric));
      PassBench one(std::make_shared<FixedData>(data)), three(std::make_shared<FixedData>(data), 3);
      const Graph solved = one.run(pass, g, knobs);
      CHECK(diff_graphs(solved, three.run(pass, g, knobs)).empty());
      CHECK(output_error(plain, solved, data) < 0.8 * output_error(plain, one.run("round_nearest", g), data));
      const auto before = numbers(one.journal, "layer", "error_nearest"), now = numbers(one.journal, "layer", "error");
      REQUIRE(now.size() == 3);
      for (std::size_t i = 0; i < now.size(); ++i) CHECK(now[i] <= before[i]);
    }
  }
}

/// Scales that an earlier pass chose stay, and codes are found for them.
inline void check_scales_stay(const std::string& pass) {
  Graph g = network();
  decide(g, small_weights(number::uint3, {Grain::Kind::groups, 0, 16, 0}, false));
  PassBench bench(std::make_shared<FixedData>(correlated(g, 16, 48, 8)));
  const Graph scaled = bench.run("hqq", g), solved = bench.run(pass, scaled, {{"steps", "300"}});
  for (const NodeId n : solved.nodes()) {
    if (solved[n].op != "MatMul") continue;
    CHECK(solved[n].inputs[1].quant->scale.same_bytes(scaled[n].inputs[1].quant->scale));
    CHECK_FALSE(solved[n].inputs[1].quant->codes.empty());
  }
}

}  // namespace qtool::test

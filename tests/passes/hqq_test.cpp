// SPDX-License-Identifier: Apache-2.0
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

namespace {

double squared_error(const Graph& g) {
  double sum = 0;
  for (const NodeId n : g.nodes()) {
    if (g[n].op != "MatMul") continue;
    const Use& use = g[n].inputs[1];
    const Tensor back = fake_quantize(g[use.value].data, *use.quant);
    const auto w = g[use.value].data.read<float>(), q = back.read<float>();
    for (std::size_t i = 0; i < w.size(); ++i) sum += (q[i] - w[i]) * (q[i] - w[i]);
  }
  return sum;
}

}  // namespace

TEST_CASE("hqq chooses scales and whole zero points that lose less than the range's own, without data") {
  for (const NumberFormat* format : {&number::uint2, &number::uint3, &number::uint4}) {
    for (const std::int64_t group : {0, 16}) {
      CAPTURE(format->name);
      CAPTURE(group);
      Graph g = network();
      const Grain grain = group == 0 ? Grain{Grain::Kind::axis, 1, 0, 0} : Grain{Grain::Kind::groups, 0, group, 0};
      decide(g, small_weights(*format, grain, false));
      PassBench bench;
      const Graph plain = bench.run("round_nearest", g), found = bench.run("hqq", g);
      CHECK(squared_error(found) < squared_error(plain));
      const Graph rounded = bench.run("round_nearest", found);  // takes the scales as they are
      CHECK(squared_error(rounded) == doctest::Approx(squared_error(found)).epsilon(1e-6));
      const auto before = numbers(bench.journal, "change", "weight_error_nearest"),
                 now = numbers(bench.journal, "change", "weight_error");
      REQUIRE(now.size() == 3);
      for (std::size_t i = 0; i < now.size(); ++i) CHECK(now[i] <= before[i]);
      PassBench three(nullptr, 3);
      CHECK(squared_error(three.run("hqq", g)) == squared_error(found));
    }
  }
}

TEST_CASE("hqq leaves decisions without zero points alone and says so") {
  Graph g = network();
  decide(g, small_weights(number::int4, {Grain::Kind::groups, 0, 16, 0}, true));
  PassBench bench;
  const Graph after = bench.run("hqq", g);
  CHECK(contains(bench.skips(), "its format has no zero points to choose"));
  for (const NodeId n : after.nodes()) {
    if (after[n].op == "MatMul") CHECK(after[n].inputs[1].quant->scale.empty());
  }
}

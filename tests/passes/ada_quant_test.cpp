// SPDX-License-Identifier: Apache-2.0
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

TEST_CASE("ada_quant: no layer gets worse, most get better, and bytes do not depend on threads") {
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
      const Graph solved = one.run("ada_quant", g, knobs);
      CHECK(diff_graphs(solved, three.run("ada_quant", g, knobs)).empty());
      CHECK(output_error(plain, solved, data) < 0.8 * output_error(plain, one.run("round_nearest", g), data));
      const auto before = numbers(one.journal, "layer", "error_nearest"), now = numbers(one.journal, "layer", "error");
      REQUIRE(now.size() == 3);
      for (std::size_t i = 0; i < now.size(); ++i) CHECK(now[i] <= before[i]);
    }
  }
}

TEST_CASE("ada_quant: scales that an earlier pass chose stay") {
  Graph g = network();
  decide(g, small_weights(number::uint3, {Grain::Kind::groups, 0, 16, 0}, false));
  PassBench bench(std::make_shared<FixedData>(correlated(g, 16, 48, 8)));
  const Graph scaled = bench.run("hqq", g), solved = bench.run("ada_quant", scaled, {{"steps", "300"}});
  for (const NodeId n : solved.nodes()) {
    if (solved[n].op != "MatMul") continue;
    CHECK(solved[n].inputs[1].quant->scale.same_bytes(scaled[n].inputs[1].quant->scale));
    CHECK_FALSE(solved[n].inputs[1].quant->codes.empty());
  }
}

// SPDX-License-Identifier: Apache-2.0
// What steps tell about their decisions, and folds done again from what passes tell about them.
#include "passes/decisions.h"

#include "formats/base/hash.h"
#include "formats/ir/quant.h"
#include "formats/lock.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

const char* const pair = R"(g (float[1, 2] x) => (float[1, 2] y)
    < float[2, 2] w = {8.0, 1.0, -2.0, 0.5}, float[2] b = {4.0, 3.0}, float[2, 2] v = {2.0, -1.0, 1.0, 4.0} > {
    h = Gemm (x, w, b)
    r = Relu (h)
    y = Gemm (r, v)
  })";

std::vector<Json> folds_of(const PassBench& bench) {
  std::vector<Json> all;
  for (const Json& fact : bench.journal.facts()) {
    if (*fact.find("kind") == Json("fold")) all.push_back(fact);
  }
  return all;
}

Quant some_quant() {
  QuantSpec spec;
  spec.format = &number::int8;
  return std::make_shared<const QuantSpec>(spec);
}

}  // namespace

TEST_CASE("decisions: uses, constants and rules are told by node") {
  Graph before = graph_of(pair);
  Graph after = before;
  after[after.nodes()[2]].inputs[1].quant = some_quant();
  after.outputs[0].quant = some_quant();
  after[*after.find_value("w")].data.write<float>()[0] = 7;
  Value added;
  added.name = "new";
  added.data = Tensor::of<float>({1}, {2.0F});
  after.add_value(added);
  added.name = "integers";
  added.data = Tensor::of<std::int64_t>({1}, {2});
  after.add_value(added);
  Rule gemms, all;
  gemms.where.op = {"Gemm"};
  all.where.op = {"*"};
  const std::vector<Rule> rules{gemms, all};
  const Json told = decided_between(before, after, rules);
  CHECK(told.find("uses")->dump() == R"([["y", 1], ["", 0]])");
  CHECK(told.find("rules")->dump() == R"([["h", 1], ["y", 1], ["r", 2]])");
  const Json::Array& constants = told.find("constants")->as_array();
  REQUIRE(constants.size() == 2);
  CHECK(*constants[0].find("name") == Json("w"));
  CHECK(*constants[0].find("was") == Json(hex(before[*before.find_value("w")].data.digest())));
  CHECK(*constants[1].find("name") == Json("new"));
  CHECK(constants[1].find("was")->is_null());
  // Nothing is told of what stays.
  const Json same = decided_between(after, after, {});
  CHECK(same.find("uses")->as_array().empty());
  CHECK(same.find("constants")->as_array().empty());
}

TEST_CASE("folds: factors of equalize_layers give its weights again, bit by bit") {
  const Graph before = graph_of(pair);
  PassBench bench;
  const Graph after = bench.run("equalize_layers", before);
  const auto folds = folds_of(bench);
  REQUIRE(folds.size() == 2);
  const char* const weights[] = {"w", "v"};
  for (std::size_t f = 0; f < 2; ++f) {
    const auto outputs = exact_numbers(folds[f].find("outputs")->as_string());
    const auto inputs = exact_numbers(folds[f].find("inputs")->as_string());
    const auto was = floats_of(before, weights[f]), is = floats_of(after, weights[f]);
    for (std::size_t i = 0; i < 4; ++i) {  // [in, out]
      CHECK(is[i] == static_cast<float>(static_cast<double>(was[i]) * (outputs[i % 2] * inputs[i / 2])));
    }
  }
  const auto factors = exact_numbers(folds[0].find("outputs")->as_string());
  CHECK(floats_of(after, "b")[1] == static_cast<float>(3.0 * factors[1]));
}

TEST_CASE("folds: the shift of bias_correct gives its bias again") {
  Graph g = graph_of(pair);
  PassBench bench(
      std::make_shared<FixedData>(std::vector<Feeds>{{{g.inputs[0], Tensor::of<float>({1, 2}, {0.3F, -1.7F})}}}));
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::int2;
  g[g.nodes()[0]].inputs[1].quant = spec;
  const Graph rounded = bench.run("round_nearest", g);
  const Graph after = bench.run("bias_correct", rounded);
  const auto folds = folds_of(bench);
  REQUIRE(folds.size() == 1);
  CHECK(*folds[0].find("node") == Json("h"));
  const auto shift = exact_numbers(folds[0].find("shift")->as_string());
  const auto was = floats_of(g, "b"), is = floats_of(after, "b");
  REQUIRE(shift.size() == 2);
  for (std::size_t o = 0; o < 2; ++o) CHECK(is[o] == static_cast<float>(static_cast<double>(was[o]) + shift[o]));
  CHECK(is != was);
}

TEST_CASE("folds: a branch that was taken is told, with the names that it changed") {
  PassBench bench;
  bench.run("fold_constants", graph_of(R"(g (float[2] x) => (float[2] y) < bool c = {1} > {
    u = Neg (x)
    s = If (c) < then_branch = d () => (float[2] p) { u = Exp (x) p = Abs (u) },
                 else_branch = e () => (float[2] p) { p = Neg (x) } >
    y = Add (u, s)
  })"));
  const auto folds = folds_of(bench);
  REQUIRE(folds.size() == 1);
  CHECK(*folds[0].find("node") == Json("s"));
  CHECK(*folds[0].find("branch") == Json("then_branch"));
  REQUIRE(folds[0].find("renamed")->as_array().size() == 1);
  CHECK(folds[0].find("renamed")->as_array()[0].as_array()[0] == Json("u"));
}

TEST_CASE("folds: a normalization tells which product took it, and on which side") {
  PassBench bench;
  bench.run("fold_batch_norm", graph_of(R"(g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
    < float[1] s = {2.0}, float[1] t = {1.0}, float[1] m = {0.5}, float[1] q = {4.0}, float[1, 1, 1, 1] w = {3.0} > {
    n = BatchNormalization (x, s, t, m, q)
    c = Conv (n, w)
    y = BatchNormalization (c, s, t, m, q)
  })"));
  const auto folds = folds_of(bench);
  REQUIRE(folds.size() == 2);
  CHECK(*folds[0].find("side") == Json("outputs"));
  CHECK(*folds[1].find("node") == Json("n"));
  CHECK(*folds[1].find("side") == Json("inputs"));
  for (const Json& fold : folds) CHECK(*fold.find("op") == Json("BatchNormalization"));
}

// SPDX-License-Identifier: Apache-2.0
// The pipeline compares the outputs with and without the pass in every case here.
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

Graph fused(const std::string& text, int opset = 17, const Knobs& knobs = {{"when", "always"}}) {
  PassBench bench;
  return bench.run("fuse_norm", graph_of(text, opset), knobs);
}

std::string layer(const std::string& body, const std::string& ends = "float[2, 3, 4] y") {
  return "g (float[2, 3, 4] x) => (" + ends + R"()
    < float two = {2.0}, float one = {1.0}, float eps = {0.001}, float[4] gamma = {1.0, 2.0, -1.0, 0.5},
      float[1, 1, 4] beta = {0.1, 0.2, 0.3, 0.4}, float[3, 4] table = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 8.0, 7.0, 6.0} > {)" +
         body + "}";
}

const std::string centred = R"(
    m = ReduceMean <axes = [-1]> (x)
    d = Sub (x, m)
    q = Pow (d, two)
    v = ReduceMean <axes = [2]> (q)
    a = Add (v, eps)
    s = Sqrt (a)
)";

/// Nothing was fused.
void check_stays(const std::string& text) { CHECK(print_graph(fused(text)) == print_graph(graph_of(text))); }

}  // namespace

TEST_CASE("fuse_norm: a layer normalization with its factor and its shift") {
  const Graph g = fused(layer(centred + "n = Div (d, s)\n f = Mul (gamma, n)\n y = Add (f, beta)"));
  REQUIRE(g.order().size() == 1);
  const Node& node = g[g.order()[0]];
  CHECK(node.op == "LayerNormalization");
  CHECK(node.attrs.get("axis", std::int64_t{0}) == -1);
  CHECK(node.attrs.get("epsilon", 0.0F) == 0.001F);
  CHECK(node.inputs.size() == 3);
  CHECK(g[node.inputs[2].value].data.shape() == Shape{4});
}

TEST_CASE("fuse_norm: the forms that exporters write") {
  SUBCASE("a difference for each use, a product for the square, a reciprocal") {
    const Graph g = fused(layer(R"(
      m = ReduceMean <axes = [-1]> (x)
      d = Sub (x, m)
      k = ReduceMean <axes = [-1]> (x)
      e = Sub (x, k)
      q = Mul (e, e)
      v = ReduceMean <axes = [-1]> (q)
      a = Add (eps, v)
      s = Sqrt (a)
      r = Reciprocal (s)
      y = Mul (d, r)
    )"));
    REQUIRE(g.order().size() == 1);
    CHECK(g[g.order()[0]].op == "LayerNormalization");
  }
  SUBCASE("two axes, one over the root, no shift") {
    const Graph g = fused(layer(R"(
      m = ReduceMean <axes = [1, 2]> (x)
      d = Sub (x, m)
      q = Pow (d, two)
      v = ReduceMean <axes = [-1, -2]> (q)
      a = Add (v, eps)
      s = Sqrt (a)
      r = Div (one, s)
      n = Mul (r, d)
      y = Mul (n, table)
    )"));
    REQUIRE(g.order().size() == 1);
    CHECK(g[g.order()[0]].attrs.get("axis", std::int64_t{0}) == -2);
  }
  SUBCASE("no mean") {
    const Graph g = fused(layer(R"(
      q = Pow (x, two)
      v = ReduceMean <axes = [-1]> (q)
      a = Add (v, eps)
      s = Sqrt (a)
      n = Div (x, s)
      y = Mul (n, gamma)
    )"));
    REQUIRE(g.order().size() == 1);
    CHECK(g[g.order()[0]].op == "RMSNormalization");
    CHECK(g.opset() == 23);
  }
}

TEST_CASE("fuse_norm: the opset is raised only as far as an operator needs it, and within the target's") {
  const Graph raised = fused(layer(centred + "y = Div (d, s)"), 13);
  CHECK(raised.opset() == 17);
  CHECK(raised.order().size() == 1);
  const Graph other = fused(layer("y = Relu (x)"), 13);
  CHECK(other.opset() == 13);
  PassBench bench;
  bench.target.max_opset = 16;
  const Graph held = bench.run("fuse_norm", graph_of(layer(centred + "y = Div (d, s)"), 13), {{"when", "always"}});
  CHECK(held.order().size() == 7);
  CHECK(bench.skips() == "its operator needs opset 17 and the model has 16\n");
}

TEST_CASE("fuse_norm: what is read elsewhere, or is no constant, stays") {
  check_stays(layer(centred + "y = Div (d, s)\n w = Relu (s)", "float[2, 3, 4] y, float[2, 3, 1] w"));
  check_stays(layer(centred + "y = Div (x, s)"));
  check_stays(layer(R"(
    m = ReduceMean <axes = [1]> (x)
    d = Sub (x, m)
    q = Pow (d, two)
    v = ReduceMean <axes = [1]> (q)
    a = Add (v, eps)
    s = Sqrt (a)
    y = Div (d, s)
  )"));
  const Graph g = fused(layer(centred + "n = Div (d, s)\n y = Mul (n, x)"));
  CHECK(count_op(g, "LayerNormalization") == 1);
  CHECK(count_op(g, "Mul") == 1);
}

TEST_CASE("fuse_norm: by default only for targets that want it") {
  const std::string text = layer(centred + "y = Div (d, s)");
  CHECK(fused(text, 17, {}).order().size() == 7);
  PassBench bench;
  bench.target.normalization_layers = true;
  CHECK(bench.run("fuse_norm", graph_of(text)).order().size() == 1);
}

TEST_CASE("fuse_norm: half precision keeps its type") {
  PassBench bench;
  const Graph g = bench.run("fuse_norm", in_half(graph_of(layer(centred + "n = Div (d, s)\n y = Mul (n, gamma)"))),
                            {{"when", "always"}});
  REQUIRE(g.order().size() == 1);
  CHECK(g[g[g.order()[0]].inputs[1].value].data.dtype() == DType::f16);
}

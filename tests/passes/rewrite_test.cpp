// SPDX-License-Identifier: Apache-2.0
#include "passes/rewrite.h"

#include "formats/ir/quant.h"
#include "formats/ir/verify.h"
#include "passes/changes.h"
#include "passes/product.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

TEST_CASE("rewrite: a constant is seen through what only moves it") {
  Graph g = graph_of(R"(g (float[2] x) => (float[3, 2] y) < float[2, 3] h = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0} > {
    c = Cast <to = 1> (h)
    t = Transpose (c)
    i = Identity (t)
    n = Neg (i)
    y = Add (i, x)
  })");
  Value& h = g[*g.find_value("h")];
  h.data = from_f32(h.data, DType::f16);
  h.type.dtype = DType::f16;
  Threads threads(1);
  const Links links(g);
  const Tensor t = resolve_constant(g, links, *g.find_value("i"), threads);
  REQUIRE(t.dtype() == DType::f32);
  REQUIRE(t.shape() == Shape{3, 2});
  CHECK(t.read<float>()[1] == 4);
  CHECK(resolve_constant(g, links, *g.find_value("n"), threads).empty());
  CHECK(resolve_constant(g, links, *g.find_value("x"), threads).empty());
}

TEST_CASE("rewrite: redirected uses keep their decisions") {
  Graph g = graph_of("g (float[2] x) => (float[2] y) { a = Identity (x) y = Relu (a) }");
  g[g.nodes()[1]].inputs[0].quant = std::make_shared<QuantSpec>();
  const Quant kept = g[g.nodes()[1]].inputs[0].quant;
  redirect(g, *g.find_value("a"), *g.find_value("x"));
  CHECK(g[g.nodes()[1]].inputs[0].value == *g.find_value("x"));
  CHECK(g[g.nodes()[1]].inputs[0].quant == kept);
}

TEST_CASE("rewrite: dead nodes go, those of unknown domains stay") {
  Graph g = graph_of(R"(g (float[2] x) => (float[2] y) {
    a = Neg (x)
    b = Abs (a)
    c = test.Report (x)
    y = Relu (x)
  })");
  CHECK(erase_dead(g) == 2);
  CHECK(g.nodes().size() == 2);
  verify(g);
}

TEST_CASE("rewrite: a constant shared by two uses is copied for the one that changes") {
  Graph g = graph_of("g (float[2] x) => (float[2] y) < float[2] k = {1.0, 2.0} > { a = Add (x, k) y = Mul (a, k) }");
  set_constant_input(g, g.nodes()[0], 1, Tensor::of<float>({2}, {5, 6}));
  CHECK(floats_of(g, "k") == std::vector<float>{1, 2});
  CHECK(floats_of(g, "k_1") == std::vector<float>{5, 6});
  set_constant_input(g, g.nodes()[0], 1, Tensor::of<float>({1}, {7}));
  CHECK(floats_of(g, "k_1") == std::vector<float>{7});
  verify(g);
}

TEST_CASE("rewrite: products read their weights alike") {
  Graph g = graph_of(R"(g (float[1, 4, 8, 8] x, float[3, 2] m) => (float[1, 6, 8, 8] c, float[3, 3] d, float[3, 3] e)
    < float[6, 2, 1, 1] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0},
      float[2, 3] v = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[3, 2] u = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0} > {
    c = Conv <group = 2> (x, w)
    d = MatMul (m, v)
    e = Gemm <transB = 1> (m, u)
  })");
  const auto conv = product_of(g, g.nodes()[0]), matmul = product_of(g, g.nodes()[1]),
             gemm = product_of(g, g.nodes()[2]);
  REQUIRE((conv && matmul && gemm));
  CHECK(conv->out_channels() == 6);
  CHECK(conv->in_channels() == 4);
  std::vector<std::pair<std::size_t, std::size_t>> seen;
  conv->for_each([&](std::size_t out, std::size_t in, std::size_t) { seen.emplace_back(out, in); });
  CHECK(seen[0] == std::pair<std::size_t, std::size_t>{0, 0});
  CHECK(seen[7] == std::pair<std::size_t, std::size_t>{3, 3});
  CHECK(matmul->out_channels() == 3);
  CHECK(matmul->weight_axis() == 1);
  CHECK(gemm->weight_axis() == 0);
  CHECK_FALSE(gemm->spatial);
}

TEST_CASE("changes: what differs is counted and the first thing named") {
  const Graph before =
      graph_of("g (float[2] x) => (float[2] y) < float[2] k = {1.0, 2.0} > { a = Add (x, k) y = Relu (a) }");
  CHECK_FALSE(changes_between(before, before).reference());
  Graph after = before;
  after[after.nodes()[0]].op = "Sub";
  after[*after.find_value("k")].data.write<float>()[0] = 3;
  const Changes c = changes_between(before, after);
  CHECK(c.nodes_changed == 1);
  CHECK(c.constants_changed == 1);
  CHECK(c.first == "node \"\" (Add) was changed");
}

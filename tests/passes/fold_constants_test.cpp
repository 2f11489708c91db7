// SPDX-License-Identifier: Apache-2.0
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

Graph folded(const std::string& text, int opset = 17, const Knobs& knobs = {}) {
  return PassBench().run("fold_constants", graph_of(text, opset), knobs);
}

/// What must not fire: the pass leaves the text as it is.
void check_unchanged(const std::string& text, int opset = 17, const Knobs& knobs = {}) {
  CHECK(difference(folded(text, opset, knobs), text, opset) == "");
}

}  // namespace

TEST_CASE("fold_constants: a chain over constants leaves one constant") {
  const Graph g = folded(R"(g (float[2, 3] x) => (float[2, 2] y) < float[2, 3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0} > {
    s = Neg (w)
    t = Transpose <perm = [1, 0]> (s)
    y = MatMul (x, t)
  })");
  CHECK(difference(g, R"(g (float[2, 3] x) => (float[2, 2] y)
    < float[3, 2] t = {-1.0, -4.0, -2.0, -5.0, -3.0, -6.0} > { y = MatMul (x, t) })") == "");
}

TEST_CASE("fold_constants: Constant nodes become initializers") {
  const Graph g = folded(R"(g (float[2] x) => (float[2] y) {
    c = Constant <value = float[2] {1.0, 2.0}> ()
    y = Add (x, c)
  })");
  CHECK(difference(g, "g (float[2] x) => (float[2] y) < float[2] c = {1.0, 2.0} > { y = Add (x, c) }") == "");
}

TEST_CASE("fold_constants: Identity and inference Dropout disappear, names of outputs stay") {
  const Graph g = folded(R"(g (float[2] x) => (float[2] y) {
    a = Identity (x)
    b = Relu (a)
    c = Dropout (b)
    y = Identity (c)
  })");
  CHECK(difference(g, "g (float[2] x) => (float[2] y) { y = Relu (x) }") == "");
}

TEST_CASE("fold_constants: an Identity between an input and an output stays") {
  check_unchanged("g (float[2] x) => (float[2] y) { y = Identity (x) }");
}

TEST_CASE("fold_constants: an Identity between two outputs stays") {
  check_unchanged("g (float[2] x) => (float[2] r, float[2] y) { r = Relu (x) y = Identity (r) }");
}

TEST_CASE("fold_constants: Dropout in training form, or whose mask is read, stays") {
  check_unchanged("g (float[2] x) => (float[2] y, bool[2] m) { a, m = Dropout (x) y = Relu (a) }");
}

TEST_CASE("fold_constants: the Shape of a fixed shape is known") {
  const Graph g = folded(R"(g (float[2, 3] x) => (float[6] y) {
    r = Relu (x)
    s = Shape (r)
    p = ReduceProd <keepdims = 1> (s)
    y = Reshape (r, p)
  })");
  CHECK(count_op(g, "Shape") + count_op(g, "ReduceProd") == 0);
  CHECK(to_int64s(g[*g.find_value("p")].data) == std::vector<std::int64_t>{6});
}

TEST_CASE("fold_constants: one sure extent is picked out of a shape with a free batch") {
  const Graph g = folded(R"(g (float[N, 3] x) => (int64 y, int64 n) < int64 one = {1}, int64 zero = {0} > {
    s = Shape (x)
    a = Gather (s, one)
    y = Neg (a)
    n = Gather (s, zero)
  })");
  CHECK(count_op(g, "Neg") == 0);
  CHECK(count_op(g, "Gather") == 1);
}

TEST_CASE("fold_constants: the Shape of a free extent stays, whatever types in between claim") {
  Graph g = graph_of("g (float[N, 3] x) => (int64[2] s) { r = Relu (x) s = Shape (r) }");
  Type& claimed = g[*g.find_value("r")].type;
  claimed.known_dtype = claimed.known_rank = true;
  claimed.shape = {7, 3};
  CHECK(count_op(PassBench().run("fold_constants", g), "Shape") == 1);
}

TEST_CASE("fold_constants: expansions stay unless they are small") {
  const std::string large = R"(g (float[64, 64] x) => (float[64, 64] y) < int64[2] s = {64, 64} > {
    c = ConstantOfShape <value = float[1] {2.0}> (s)
    y = Add (x, c)
  })";
  check_unchanged(large, 17, {{"max_growth", "1024"}});
  CHECK(count_op(folded(large), "ConstantOfShape") == 0);
}

TEST_CASE("fold_constants: an expansion too large for memory is not even tried") {
  check_unchanged(R"(g (int64[3] i) => (float[3] y) < int64[2] s = {4000000000, 4000000000} > {
    c = ConstantOfShape (s)
    r = Reshape (c, i)
    y = ReduceSum <keepdims = 0> (r)
  })",
                  17);
}

TEST_CASE("fold_constants: a large intermediate with a small result is computed") {
  const Graph g = folded(R"(g (float[1] x) => (float[1] y) < int64[1] s = {100000} > {
    c = ConstantOfShape <value = float[1] {1.0}> (s)
    m = ReduceMax <keepdims = 1> (c)
    y = Add (x, m)
  })",
                         17, {{"max_growth", "64"}});
  CHECK(difference(g, "g (float[1] x) => (float[1] y) < float[1] m = {1.0} > { y = Add (x, m) }") == "");
}

TEST_CASE("fold_constants: random operators stay") {
  check_unchanged("g (float[2] x) => (float[2] r) { r = RandomNormal <shape = [2], seed = 1.0> () }");
}

TEST_CASE("fold_constants: a model that is quantized already stays so") {
  check_unchanged(R"(g (float[1, 2] x) => (float[1, 2] y)
    < int8[2, 2] w = {1, 2, 3, 4}, float s = {0.5}, int8 z = {0} > {
    d = DequantizeLinear (w, s, z)
    y = MatMul (x, d)
  })");
}

TEST_CASE("fold_constants: weights stored in half precision are unpacked whatever they weigh") {
  Graph g = graph_of(R"(g (float[1, 2] x) => (float[1, 2] y) < float[2, 2] h = {1.0, 2.0, 3.0, 4.0} > {
    w = Cast <to = 1> (h)
    y = MatMul (x, w)
  })");
  Value& h = g[*g.find_value("h")];
  h.data = from_f32(h.data, DType::f16);
  h.type.dtype = DType::f16;
  g = PassBench().run("fold_constants", g, {{"max_growth", "0"}});
  CHECK(difference(g, R"(g (float[1, 2] x) => (float[1, 2] y) < float[2, 2] w = {1.0, 2.0, 3.0, 4.0} > {
    y = MatMul (x, w) })") == "");
}

TEST_CASE("fold_constants: a graph output that is known comes from a Constant under its name") {
  const Graph g =
      folded("g (float[1] x) => (float[1] y, float[1] k) < float[1] c = {3.0} > { k = Neg (c) y = Add (x, k) }");
  CHECK(difference(g, R"(g (float[1] x) => (float[1] y, float[1] k) {
    y = Add (x, k)
    k = Constant <value = float[1] {-3.0}> ()
  })") == "");
}

TEST_CASE("fold_constants: inputs with a default become constants, unless they are to stay open") {
  Graph g = graph_of("g (float[2] x) => (float[2] y) < float[2] w = {1.0, 2.0} > { n = Neg (w) y = Add (x, n) }");
  g.inputs.push_back(*g.find_value("w"));
  PassBench bench;
  const Graph frozen = bench.run("fold_constants", g);
  CHECK(frozen.inputs.size() == 1);
  CHECK(count_op(frozen, "Neg") == 0);
  CHECK(bench.count("change") == 1);
  const Graph open = PassBench().run("fold_constants", g, {{"freeze_inputs", "false"}});
  CHECK(open.inputs.size() == 2);
  CHECK(count_op(open, "Neg") == 1);
}

TEST_CASE("fold_constants: what nobody needs goes") {
  const Graph g = folded(R"(g (float[2] x) => (float[2] y) < float[2] unused = {1.0, 2.0} > {
    a = Neg (x)
    b = Add (a, unused)
    y = Relu (x)
  })");
  CHECK(difference(g, "g (float[2] x) => (float[2] y) { y = Relu (x) }") == "");
}

TEST_CASE("fold_constants: a node that cannot be computed stays") {
  check_unchanged(R"(g (float[2] x) => (float[2] y) < float[3] a = {1.0, 2.0, 3.0}, float[2] b = {1.0, 2.0} > {
    c = Add (a, b)
    y = Sub (x, c)
  })");
}

TEST_CASE("fold_constants: only the selected nodes") {
  const std::string text = R"(g (float[1] x) => (float[1] y) < float[1] c = {3.0} > {
    a = Neg (c)
    b = Abs (c)
    s = Add (x, a)
    y = Add (s, b)
  })";
  Graph g = graph_of(text);
  for (const NodeId id : g.nodes()) g[id].name = g[id].op;
  const Graph after = PassBench().run("fold_constants", g, {}, "Neg");
  CHECK(count_op(after, "Neg") == 0);
  CHECK(count_op(after, "Abs") == 1);
}

TEST_CASE("fold_constants: bodies are folded and let go of what they captured") {
  const Graph g = folded(R"(g (bool c, float[2] x) => (float[2] y) < float[2] w = {1.0, -2.0} > {
    y = If (c) <
      then_branch = t () => (float[2] a) { n = Neg (w) m = Abs (n) a = Add (x, m) },
      else_branch = e () => (float[2] b) { b = Neg (x) }
    >
  })");
  CHECK_FALSE(g.find_value("w"));
  REQUIRE(g.nodes().size() == 1);
  const Node& node = g[g.nodes()[0]];
  CHECK(node.captured.size() == 1);
  const auto body = node.attrs.graph("then_branch");
  CHECK(body->nodes().size() == 1);
  CHECK(floats_of(*body, "m") == std::vector<float>{1, 2});
}

TEST_CASE("fold_constants: constants that only bodies use stay") {
  const Graph g = folded(R"(g (bool c, float[2] x) => (float[2] y) < float[2] w = {1.0, -2.0} > {
    y = If (c) <
      then_branch = t () => (float[2] a) { a = Add (x, w) },
      else_branch = e () => (float[2] b) { b = Neg (x) }
    >
  })");
  CHECK(g.find_value("w"));
}

TEST_CASE("fold_constants: an If of a known condition gives way to its branch") {
  const Graph g = folded(R"(g (float[2] x) => (float[2] y, float[2] z) < bool c = {1}, float[2] w = {1.0, -2.0} > {
    t = Neg (x)
    n = Not (c)
    y, z = If (n) <
      then_branch = a () => (float[2] p, float[2] q) { p = Abs (x) q = Abs (p) },
      else_branch = b () => (float[2] r, float[2] t2) { u = Add (x, w) r = Relu (u) t2 = Identity (t) }
    >
  })");
  CHECK(difference(g, R"(g (float[2] x) => (float[2] y, float[2] z) < float[2] w = {1.0, -2.0} > {
    z = Neg (x)
    u = Add (x, w)
    y = Relu (u)
  })") == "");
}

TEST_CASE("fold_constants: names of a branch that are taken outside change") {
  const Graph g = folded(R"(g (float[2] x) => (float[2] y) < bool c = {1} > {
    t = If (c) < then_branch = a () => (float[2] p) { u = Neg (x) p = Abs (u) },
                 else_branch = b () => (float[2] p) { p = Neg (x) } >
    s = If (c) < then_branch = d () => (float[2] p) { u = Exp (x) p = Abs (u) },
                 else_branch = e () => (float[2] p) { p = Neg (x) } >
    y = Add (t, s)
  })");
  CHECK(g.nodes().size() == 5);
}

TEST_CASE("fold_constants: a body with a sequence, which no constant can hold, stays") {
  const Graph g = folded(R"(g (bool c) => (float[2] y) {
    y = If (c) <
      then_branch = t () => (float[2] a) { k = Constant <value = float[2] {1.0, 2.0}> () s = SequenceConstruct (k)
                                           i = Constant <value_int = 0> () a = SequenceAt (s, i) },
      else_branch = e () => (float[2] b) { b = Constant <value = float[2] {3.0, 4.0}> () }
    >
  })");
  CHECK(count_op(*g[g.nodes()[0]].attrs.graph("then_branch"), "SequenceConstruct") == 1);
}

TEST_CASE("fold_constants: nodes without the inputs that they need are left to whoever runs them") {
  Graph g = graph_of(R"(g (float[2] x, int64 i) => (float[2] y, int64[1] s, int64 n) {
    y = Relu (x)
    s = Shape (x)
    n = Gather (s, i)
  })");
  for (const NodeId id : g.nodes()) {
    if (g[id].op != "Relu") g[id].inputs.insert(g[id].inputs.begin(), Use{});
  }
  CHECK(PassBench().run("fold_constants", g).nodes().size() == 3);
}

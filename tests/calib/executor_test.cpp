// SPDX-License-Identifier: Apache-2.0
#include "calib/executor.h"

#include <doctest/doctest.h>

#include <malloc.h>

#include <algorithm>

#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"

namespace qtool::test {
namespace {

Graph graph_of(const std::string& text) { return parse_graph("<ir_version: 8, opset_import: [\"\" : 17]>\n" + text); }

ValueId value(const Graph& g, const char* name) { return *g.find_value(name); }

std::vector<float> floats(const Tensor& t) { return {t.read<float>().begin(), t.read<float>().end()}; }

std::string error_of(const std::function<void()>& f, Code code) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.code() == code);
    return e.what();
  }
  return "no error";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Quant int8_with(float scale) {
  QuantSpec spec;
  spec.format = find_number("int8");
  spec.scale = Tensor::scalar<float>(scale);
  return std::make_shared<const QuantSpec>(spec);
}

std::size_t bytes_in_use() {
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace

TEST_CASE("executor: any value can be wanted, and any can be fed") {
  const Graph g = graph_of("g (float[2] x) => (float[2] y) { a = Neg(x) b = Exp(a) y = Add(b, a) }");
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const ValueId wanted[] = {value(g, "a"), value(g, "x"), value(g, "a")};
  const auto r = executor.run({{value(g, "x"), Tensor::of<float>({2}, {1, 2})}}, wanted);
  CHECK(floats(r[0]) == std::vector<float>{-1, -2});
  CHECK(floats(r[1]) == std::vector<float>{1, 2});
  CHECK(r[2].same_storage(r[0]));
  // With `a` given, x is not needed.
  const ValueId out[] = {value(g, "y")};
  CHECK(floats(executor.run({{value(g, "a"), Tensor(DType::f32, {2})}}, out)[0]) == std::vector<float>{1, 1});
}

TEST_CASE("executor: feeds that do not fit are named") {
  const Graph g = graph_of("g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }");
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const auto with = [&](Tensor t) {
    return error_of([&] { executor.run({{value(g, "x"), std::move(t)}}); }, Code::calibration);
  };
  CHECK(has(with(Tensor(DType::i64, {1, 3})), "\"x\" takes type f32, the data are i64"));
  CHECK(has(with(Tensor(DType::f32, {3})), "\"x\" takes shape [?, 3], the data are [3]"));
  CHECK(has(with(Tensor(DType::f32, {1, 4})), "[1, 4]"));
  CHECK(has(error_of([&] { executor.run(Feeds{}); }, Code::calibration), "no data for input \"x\""));
  CHECK(executor.run({{value(g, "x"), Tensor(DType::f32, {5, 3})}})[0].shape() == Shape{5, 3});
}

TEST_CASE("executor: errors name the node") {
  Graph g = graph_of("g (float[2] x, float[3] z) => (float[2] y) { y = Add(x, z) }");
  g[g.nodes()[0]].name = "sum";
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const Feeds feeds{{value(g, "x"), Tensor(DType::f32, {2})}, {value(g, "z"), Tensor(DType::f32, {3})}};
  CHECK(error_of([&] { executor.run(feeds); }, Code::input) ==
        "the shapes [2] and [3] do not broadcast (node \"sum\", Add, output \"y\")");
  g[g.nodes()[0]].op = "Adda";
  CHECK(has(error_of([&] { Executor(g, Reading::reference, threads); }, Code::input), "node \"sum\" uses Adda"));
}

TEST_CASE("executor: quantized operands, constants, biases and outputs") {
  Graph g = graph_of(R"(g (float[1, 2] x) => (float[1, 2] y)
<float[2, 2] w = {0.26, 0.0, 0.0, 1.0}, float[2] b = {0.013, -0.5}> { y = Gemm(x, w, b) })");
  Node& node = g[g.nodes()[0]];
  node.inputs[0].quant = int8_with(0.5f);
  node.inputs[1].quant = int8_with(0.25f);
  QuantSpec bias;
  bias.is_bias = true;
  node.inputs[2].quant = std::make_shared<const QuantSpec>(bias);
  Threads threads(1);
  const Tensor x = Tensor::of<float>({1, 2}, {1.2f, -3.1f});
  // x becomes (1, -3), w (0.25, 1), b in steps of 0.125 becomes (0, -0.5).
  const Executor quantized(g, Reading::quantized, threads), reference(g, Reading::reference, threads);
  CHECK(floats(quantized.run({{value(g, "x"), x}})[0]) == std::vector<float>{0.25f, -3.5f});
  CHECK(floats(reference.run({{value(g, "x"), x}})[0])[0] == doctest::Approx(1.2 * 0.26 + 0.013));
  g.outputs[0].quant = int8_with(1.0f);
  const Executor outputs(g, Reading::quantized, threads);
  CHECK(floats(outputs.run({{value(g, "x"), x}})[0]) == std::vector<float>{0, -4});  // ties to even
  // A constant that is fed is quantized like the one that it stands for.
  const Tensor w = Tensor::of<float>({2, 2}, {0.6f, 0, 0, 0});
  CHECK(floats(quantized.run({{value(g, "x"), x}, {value(g, "w"), w}})[0]) == std::vector<float>{0.5f, -0.5f});
}

TEST_CASE("executor: a value that two consumers see differently") {
  Graph g = graph_of("g (float[1] x) => (float[1] y) { a = Neg(x) b = Neg(a) c = Neg(a) y = Add(b, c) }");
  const auto nodes = g.nodes();
  g[nodes[1]].inputs[0].quant = int8_with(1.0f);
  Threads threads(1);
  const Executor executor(g, Reading::quantized, threads);
  CHECK(floats(executor.run({{value(g, "x"), Tensor::of<float>({1}, {1.25f})}})[0]) ==
        std::vector<float>{1.0f + 1.25f});
}

TEST_CASE("executor: memory is freed after the last use") {
  constexpr std::int64_t size = 1 << 18;  // 1 MiB of float32
  std::string body = "t0 = Exp(x) ";
  for (int i = 1; i < 64; ++i) {  // every step reads two values, so none can be written in place
    const std::string n = std::to_string(i), before = std::to_string(i - 1);
    body += "s" + n + " = Sigmoid(t" + before + ") t" + n + " = Sub(t" + before + ", s" + n + ") ";
  }
  const Graph g = graph_of("g (float[N] x) => (float[N] y) { " + body + " y = Neg(t63) }");
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const Tensor x(DType::f32, {size});
  std::vector<ValueId> wanted;
  for (int i = 0; i < 64; ++i) wanted.push_back(value(g, ("t" + std::to_string(i)).c_str()));
  const std::size_t before = bytes_in_use();
  std::size_t peak = 0, visits = 0;
  executor.run({{value(g, "x"), x}}, wanted, [&](ValueId, const Tensor&) {
    ++visits;
    peak = std::max(peak, bytes_in_use() - std::min(before, bytes_in_use()));
  });
  CHECK(visits == 64);
  CHECK(peak < 5 * size * sizeof(float));  // of 128 values at most four live at a time
}

TEST_CASE("executor: a run pulled value by value computes no further than asked") {
  const Graph g = graph_of(
      "g (float[n] x) => (float[n] y) { a = Neg(x) b = Exp(a) c = Add(b, a) d = Mul(c, c) e = Abs(d) y = Neg(e) }");
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const std::int64_t n = 1 << 20;
  const std::size_t one = static_cast<std::size_t>(n) * sizeof(float), before = bytes_in_use();
  const ValueId wanted[] = {value(g, "x"), value(g, "b"), value(g, "y"), value(g, "b")};
  Executor::Walk walk(executor, {{value(g, "x"), Tensor(DType::f32, {n})}}, wanted);
  CHECK(walk.next()->first == value(g, "x"));
  CHECK(bytes_in_use() < before + one + one / 2);  // x alone
  {
    const auto b = walk.next();
    CHECK(b->first == value(g, "b"));
    CHECK(b->second.read<float>()[7] == 1);
    CHECK(bytes_in_use() < before + 3 * one + one / 2);  // x, a, b
  }
  const auto y = walk.next();
  CHECK(y->first == value(g, "y"));
  CHECK(y->second.read<float>()[7] == -1);
  CHECK_FALSE(walk.next().has_value());
  CHECK_FALSE(walk.next().has_value());
}

TEST_CASE("executor: what is wanted is not overwritten by what follows") {
  const Graph g = graph_of("g (float[3] x) => (float[3] y) { a = Exp(x) b = Neg(a) y = Relu(b) }");
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const ValueId wanted[] = {value(g, "a"), value(g, "b"), value(g, "y")};
  const Tensor x = Tensor(DType::f32, {3});
  const auto r = executor.run({{value(g, "x"), x}}, wanted);
  CHECK(floats(r[0]) == std::vector<float>{1, 1, 1});
  CHECK(floats(r[1]) == std::vector<float>{-1, -1, -1});
  CHECK(floats(r[2]) == std::vector<float>{0, 0, 0});
  CHECK(floats(x) == std::vector<float>{0, 0, 0});
}

TEST_CASE("executor: bodies see captured values, in the reading of their uses") {
  Graph g = graph_of(R"(g (bool c, float[2] x) => (float[2] y) {
  t = Neg(x)
  y = If (c) <then_branch = yes () => (float[2] p) { p = Exp(t) }, else_branch = no () => (float[2] q) { q = Neg(t) }>
})");
  Threads threads(1);
  const Tensor x = Tensor::of<float>({2}, {0.3f, 2});
  const auto run = [&](Reading reading, bool c) {
    return floats(Executor(g, reading, threads).run({{value(g, "c"), Tensor::scalar<bool>(c)}, {value(g, "x"), x}})[0]);
  };
  CHECK(run(Reading::reference, false) == std::vector<float>{0.3f, 2});
  CHECK(run(Reading::reference, true)[1] == doctest::Approx(0.1353353));
  REQUIRE(g[g.nodes()[1]].captured.size() == 1);
  g[g.nodes()[1]].captured[0].quant = int8_with(1.0f);
  CHECK(run(Reading::quantized, false) == std::vector<float>{0, 2});
}

TEST_CASE("executor: local functions are run") {
  const Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2] x) => (float[2] y) { t = Neg(x) y = own.twice(t) }
<opset_import: ["" : 17], domain: "own">
twice (a) => (b) { b = Add(a, a) })");
  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  const ValueId wanted[] = {value(g, "t"), value(g, "y")};
  const auto r = executor.run({{value(g, "x"), Tensor::of<float>({2}, {1, 2})}}, wanted);
  CHECK(floats(r[0]) == std::vector<float>{-1, -2});
  CHECK(floats(r[1]) == std::vector<float>{-2, -4});
}

TEST_CASE("executor: the same bytes on one thread and on many") {
  const Graph g = graph_of(R"(g (float[64, 3000] x) => (float[64, 3000] y)
{ s = Softmax(x) m = ReduceMean<axes = [0]>(s) d = Sub(s, m) y = Sigmoid(d) })");
  Tensor x(DType::f32, {64, 3000});
  for (std::size_t i = 0; float& v : x.write<float>())
    v = static_cast<float>(static_cast<int>(i++ * 7919 % 2003) - 1000) / 300;
  Threads one(1), many(3);
  const Feeds feeds{{value(g, "x"), x}};
  CHECK(Executor(g, Reading::reference, one)
            .run(feeds)[0]
            .same_bytes(Executor(g, Reading::reference, many).run(feeds)[0]));
}

TEST_CASE("infer: shapes flow through Shape, Gather and Concat into Reshape") {
  Graph g = graph_of(R"(g (float[2, 6, 4] x) => (float y) {
  s = Shape(x) i = Constant<value_ints = [0]>() n = Gather(s, i) m = Constant<value_ints = [-1, 4]>()
  t = Concat<axis = 0>(n, m) y = Reshape(x, t) })");
  infer_types(g);
  CHECK(g[value(g, "y")].type.shape == Shape{2, 6, 4});
  CHECK(g[value(g, "s")].type.dtype == DType::i64);
}

TEST_CASE("infer: symbols travel, and bodies are reached") {
  Graph g = graph_of(R"(g (bool c, float[N, 4] x) => (float y) {
  t = Relu(x)
  y = If (c) <then_branch = yes () => (float p) { p = Exp(t) }, else_branch = no () => (float q) { q = Transpose(t) }> })");
  infer_types(g);
  CHECK(g[value(g, "t")].type.symbols[0] == "N");
  CHECK(g[value(g, "y")].type.shape == Shape{-1, -1});
  const auto body = g[g.nodes()[1]].attrs.graph("else_branch");
  CHECK((*body)[*body->find_value("q")].type.shape == Shape{4, -1});
}

TEST_CASE("infer: a node without the inputs that it needs does no harm") {
  for (const char* op : {"Shape", "Size", "Loop", "If", "Scan", "Gather", "Concat", "Cast"}) {
    Graph g = graph_of(std::string("g () => (int64[N] y) { y = ") + op + " () }");
    CHECK_NOTHROW(infer_types(g));
  }
}

TEST_CASE("infer: the work on nested loops does not double at every level") {
  constexpr int levels = 20;
  std::string body = "{ v0 = Transpose (x) }";
  for (int i = 1; i <= levels; ++i) {
    const std::string inner = "v" + std::to_string(i - 1), n = std::to_string(i);
    body = "{ v" + n + " = Loop (n, c, x) <body = b" + n + " (int64 i" + n + ", bool c" + n + ", float[2, 3] s" + n +
           ") => (bool d" + n + ", float[A, B] " + inner + ") { d" + n + " = Identity (c" + n + ") " + body.substr(2) +
           "> }";
  }
  Graph g = graph_of("g (int64 n, bool c, float[2, 3] x) => (float[A, B] v" + std::to_string(levels) + ") " + body);
  infer_types(g);  // 2^20 bodies would take minutes
  CHECK(g[g.outputs[0].value].type.dtype == DType::f32);
}

}  // namespace qtool::test

// SPDX-License-Identifier: Apache-2.0
// What gets fewer bits, and as much: what does not. The rules are those of onnx-quantized.md section 3, measured in
// ONNX Runtime 1.31; tests/runtime asks the real one.
#include <map>

#include "backends/backend.h"
#include "formats/ir/quant.h"
#include "recipes/reader/where.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// One line per node that has decisions: operands as name=format, "[axis]" or "/group", "#n" for the n-th spec shared
/// by activations, "~" for scales taken at run time, "b" for biases.
std::string decisions(const Graph& g) {
  std::map<const QuantSpec*, std::size_t> specs;
  const auto text = [&](const Use& use) {
    const QuantSpec& s = *use.quant;
    std::string t = " " + g[use.value].name + "=";
    if (s.is_bias) return t + "b";
    t += std::string(s.format->name);
    if (s.grain.kind == Grain::Kind::axis) t += "[" + std::to_string(s.grain.axis) + "]";
    if (s.grain.kind == Grain::Kind::groups) t += "/" + std::to_string(s.grain.group);
    if (s.dynamic) t += "~";
    if (!g.is_constant(use.value)) t += "#" + std::to_string(specs.emplace(&s, specs.size()).first->second);
    return t;
  };
  std::string all;
  for (const NodeId n : g.order()) {
    std::string line;
    for (const Use& use : g[n].inputs) line += use.quant ? text(use) : "";
    if (!line.empty()) all += std::string(label_of(g, n)) + ":" + line + "\n";
  }
  for (const Use& use : g.outputs) all += use.quant ? "=>" + text(use) + "\n" : "";
  return all;
}

struct Assigned {
  Graph graph;
  std::string decisions, skips;
};

Rule rule_of(const std::string& name, const Knobs& wishes) {
  Rule rule;
  rule.where.name = {name};
  for (const auto& [key, value] : wishes) {
    Setting s;
    s.value = value;
    rule.wishes.emplace_back(key, s);
  }
  return rule;
}

/// `body` gets the weights w (of `weight` shape), v (the same) and others as written.
Assigned assign(const std::string& text, const Knobs& knobs = {}, const std::vector<Rule>& rules = {},
                const std::function<void(Target&)>& change = {}, int opset = 17) {
  PassBench bench;
  bench.target = find_backend("ort-cpu")->target();
  if (change) change(bench.target);
  Recipe recipe;
  recipe.rules = rules;
  Step step;
  step.pass = step.id = "assign_formats";
  for (const auto& [name, value] : knobs) {
    Setting setting;
    setting.value = value;
    step.knobs.emplace_back(name, setting);
  }
  recipe.steps.push_back(step);
  auto steps = bind_steps(recipe);
  Graph g = graph_of(text, opset);
  run_steps(g, steps, recipe, bench.target, bench.calibration, bench.journal, bench.threads, {});
  std::string lines = decisions(g);
  return {std::move(g), lines, bench.skips()};
}

/// "float[2,2,1,1] w = {0, 1, ...}".
std::string weight(const std::string& name, const std::vector<int>& shape) {
  std::string dims;
  int count = 1;
  for (const int d : shape) dims += (dims.empty() ? "" : ",") + std::to_string(d), count *= d;
  std::string values;
  for (int i = 0; i < count; ++i) values += (i ? ", " : "") + std::to_string(i % 7 - 3) + ".5";
  return "float[" + dims + "] " + name + " = {" + values + "}";
}

const std::string conv_head = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) < " + weight("w", {2, 2, 1, 1}) + ", " +
                              weight("v", {2, 2, 1, 1}) + ", float[2] b = {0.5, -0.5} >";
const std::string plane_head = "g (float[3,4] x) => (float[3,4] y) < " + weight("w", {4, 4}) + ", " +
                               weight("v", {4, 4}) + ", float[4] b = {1.0, 2.0, 3.0, 4.0} >";

}  // namespace

TEST_CASE("static: Conv, weight per output channel, quantizer behind its Relu") {
  const auto a = assign(conv_head + "{ c = Conv (x, w, b)  r = Relu (c)  y = Conv (r, v) }");
  CHECK(a.decisions == "c: x=uint8#0 w=int8[0] b=b\ny: r=uint8#1 v=int8[0]\n=> y=uint8#2\n");
  CHECK(a.skips == "");
}

TEST_CASE("static: a Conv read by Relu and by somebody else keeps its own quantizer, the Relu stays float") {
  const auto a = assign(conv_head + "{ c = Conv (x, w)  r = Relu (c)  s = Tanh (c)  t = Sub (r, s)  y = Conv (t, v) }");
  CHECK(a.decisions == "c: x=uint8#0 w=int8[0]\nr: c=uint8#1\ns: c=uint8#1\ny: t=uint8#2 v=int8[0]\n=> y=uint8#3\n");
}

TEST_CASE("static: products take their weight's column axis, and give floats where nothing reads codes") {
  CHECK(assign(plane_head + "{ y = MatMul (x, w) }").decisions == "y: x=uint8#0 w=int8[1]\n");
  CHECK(assign(plane_head + "{ y = Gemm (x, w, b) }").decisions == "y: x=uint8#0 w=int8[1] b=b\n");
  CHECK(assign(plane_head + "{ y = Gemm <transB = 1> (x, w, b) }").decisions == "y: x=uint8#0 w=int8[0] b=b\n");
  CHECK(assign(plane_head + "{ y = MatMul (x, w) }", {{"grain", "tensor"}}).decisions == "y: x=uint8#0 w=int8\n");
}

TEST_CASE("static: where one reader of a product takes codes, all do") {
  const auto a = assign(plane_head + "{ m = MatMul (x, w)  t = Tanh (m)  n = MatMul (m, v)  y = Add (n, t) }");
  CHECK(a.decisions == "m: x=uint8#0 w=int8[1]\nt: m=uint8#1\nn: m=uint8#1 v=int8[1]\n");
}

TEST_CASE("static: a value of a float node is quantized for integer kernels alone") {
  const auto a = assign(plane_head + "{ e = Exp (x)  m = MatMul (e, w)  t = Tanh (e)  y = Add (m, t) }");
  CHECK(a.decisions == "m: e=uint8#0 w=int8[1]\n");
  CHECK(contains(a.skips, "none of its operands comes from an integer kernel") == false);
  CHECK(contains(a.skips, "ONNX Runtime has no Exp kernel on 8-bit values"));
}

TEST_CASE("static: a residual Add between convolutions is an integer kernel") {
  const auto a = assign(
      conv_head + "{ c = Conv (x, w)  r = Relu (c)  d = Conv (r, v)  s = Add (d, r)  t = Relu (s)  y = Conv (t, w) }");
  CHECK(
      a.decisions ==
      "c: x=uint8#0 w=int8[0]\nd: r=uint8#1 v=int8[0]\ns: d=uint8#2 r=uint8#1\ny: t=uint8#3 w=int8[0]\n=> y=uint8#4\n");
}

TEST_CASE("static: arithmetic that no product reads stays float, so the last scores stay fine") {
  const auto a = assign(conv_head + "{ c = Conv (x, w)  d = Conv (c, v)  s = Add (c, d)  y = Sigmoid (s) }");
  CHECK(a.decisions == "c: x=uint8#0 w=int8[0]\nd: c=uint8#1 v=int8[0]\ns: c=uint8#1 d=uint8#2\n");
  CHECK(contains(a.skips, "no integer kernel reads its result"));
}

TEST_CASE("static: arithmetic with a float operand stays float") {
  const auto a = assign(conv_head + "{ c = Conv (x, w)  t = Tanh (x)  s = Add (c, t)  y = Conv (s, v) }");
  CHECK(a.decisions == "c: x=uint8#0 w=int8[0]\ns: c=uint8#1\ny: s=uint8#2 v=int8[0]\n=> y=uint8#3\n");
  CHECK(contains(a.skips, "its operand \"t\" is float"));
}

TEST_CASE("static: a constant operand is quantized too: a float one would block the kernel") {
  const std::string head =
      "g (float[1,2,4,4] x) => (float[1,2,4,4] y) < " + weight("w", {2, 2, 1, 1}) + ", float[2,1,1] k = {0.5, 2.0} >";
  const auto m = assign(head + "{ c = Conv (x, w)  s = Mul (c, k)  y = Conv (s, w) }");
  CHECK(m.decisions == "c: x=uint8#0 w=int8[0]\ns: c=uint8#1 k=uint8\ny: s=uint8#2 w=int8[0]\n=> y=uint8#3\n");
}

TEST_CASE("static: moves share scale and zero point") {
  const auto a = assign(conv_head +
                        "{ c = Conv (x, w)  m = MaxPool <kernel_shape = [1, 1]> (c)  t = Transpose <perm = [0, 1, 3, "
                        "2]> (m)  y = Conv (t, v) }");
  CHECK(a.decisions == "c: x=uint8#0 w=int8[0]\nm: c=uint8#1\nt: m=uint8#1\ny: t=uint8#1 v=int8[0]\n=> y=uint8#2\n");
}

TEST_CASE("static: a Relu behind a move of a kernel is its saturation; of a value that others read it is not") {
  CHECK(
      assign(conv_head + "{ c = Conv (x, w)  m = MaxPool <kernel_shape = [1, 1]> (c)  r = Relu (m)  y = Conv (r, v) }")
          .decisions == "c: x=uint8#0 w=int8[0]\nm: c=uint8#1\nr: m=uint8#1\ny: r=uint8#1 v=int8[0]\n=> y=uint8#2\n");
  CHECK(assign(conv_head + "{ c = Conv (x, w)  m = MaxPool <kernel_shape = [1, 1]> (c)  r = Relu (m)  d = Conv (m, w)  "
                           "s = Sub (d, r)  y = Conv (s, v) }")
            .decisions ==
        "c: x=uint8#0 w=int8[0]\nm: c=uint8#1\nr: m=uint8#1\nd: m=uint8#1 w=int8[0]\ns: d=uint8#2\ny: s=uint8#3 "
        "v=int8[0]\n=> y=uint8#4\n");
}

TEST_CASE("static: the quantizer stands before moves that only integer kernels read") {
  const auto a = assign("g (float[1,3,4] x) => (float[1,3,4] y) < " + weight("w", {4, 4}) +
                        " > { e = Exp (x)  t = Transpose <perm = [0, 1, 2]> (e)  y = MatMul (t, w) }");
  CHECK(a.decisions == "t: e=uint8#0\ny: t=uint8#0 w=int8[1]\n");
}

TEST_CASE("static: Concat shares one scale where that costs nobody anything") {
  const std::string head = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) < " + weight("w", {2, 2, 1, 1}) + ", " +
                           weight("v", {2, 4, 1, 1}) + " >";
  CHECK(
      assign(head + "{ a = Conv (x, w)  b = Conv (x, w)  c = Concat <axis = 1> (a, b)  y = Conv (c, v) }").decisions ==
      "a: x=uint8#0 w=int8[0]\nb: x=uint8#0 w=int8[0]\nc: a=uint8#1 b=uint8#1\ny: c=uint8#1 v=int8[0]\n=> y=uint8#2\n");
  // Beside a value below zero the Relu would not be redundant any more: own scales.
  CHECK(
      assign(head + "{ a = Conv (x, w)  r = Relu (a)  b = Conv (x, w)  c = Concat <axis = 1> (r, b)  y = Conv (c, v) }")
          .decisions ==
      "a: x=uint8#0 w=int8[0]\nb: x=uint8#0 w=int8[0]\nc: r=uint8#1 b=uint8#2\ny: c=uint8#3 v=int8[0]\n=> y=uint8#4\n");
  // Somebody else reads one of them.
  CHECK(
      assign(head + "{ a = Conv (x, w)  b = Conv (a, w)  c = Concat <axis = 1> (a, b)  y = Conv (c, v) }").decisions ==
      "a: x=uint8#0 w=int8[0]\nb: a=uint8#1 w=int8[0]\nc: a=uint8#1 b=uint8#2\ny: c=uint8#3 v=int8[0]\n=> y=uint8#4\n");
}

TEST_CASE("static: Sigmoid gets scale 1/256 and the lowest code as zero point") {
  const std::string text = conv_head + "{ c = Conv (x, w)  s = Sigmoid (c)  m = Mul (c, s)  y = Conv (m, v) }";
  const auto a = assign(text);
  CHECK(a.decisions ==
        "c: x=uint8#0 w=int8[0]\ns: c=uint8#1\nm: c=uint8#1 s=uint8#2\ny: m=uint8#3 v=int8[0]\n=> y=uint8#4\n");
  for (const auto& [format, zero] : {std::pair{"uint8", 0}, std::pair{"int8", -128}}) {
    const Graph g = assign(text, {{"activations", format}}).graph;
    const Quant s = g[g.order()[2]].inputs[1].quant;
    REQUIRE(s);
    CHECK(s->scale.read<float>()[0] == 1.0F / 256.0F);
    CHECK(s->zero_point.read<std::int32_t>()[0] == zero);
  }
}

TEST_CASE("static: attention: both products, not the Softmax between; off when asked") {
  const std::string text =
      "g (float[1,3,4] q, float[1,4,3] k, float[1,3,4] v) => (float[1,3,4] y) "
      "{ s = MatMul (q, k)  p = Softmax (s)  y = MatMul (p, v) }";
  CHECK(assign(text).decisions == "s: q=uint8#0 k=uint8#1\ny: p=uint8#2 v=uint8#3\n");
  const auto off = assign(text, {{"attention", "false"}});
  CHECK(off.decisions == "");
  CHECK(contains(off.skips, "it multiplies two activations"));
}

TEST_CASE("static: what decides a comparison or an index stays float") {
  const auto a = assign("g (float[1,2,4,4] x) => (float[1,2,4,4] y, bool[1,2,4,4] z) < " + weight("w", {2, 2, 1, 1}) +
                        ", float[1] limit = {0.25} > { c = Conv (x, w)  d = Conv (c, w)  s = Add (c, d)  y = Conv (s, "
                        "w)  z = Less (s, limit) }");
  CHECK(contains(a.decisions, "s: c=uint8#1 d=uint8#2\n"));  // what convolutions give, dequantized
  CHECK(contains(a.skips, "its result decides indices or comparisons"));
  CHECK(contains(a.decisions, "z:") == false);
}

TEST_CASE("static: int8 activations are symmetric, but not behind a Relu") {
  const Graph g =
      assign(conv_head + "{ c = Conv (x, w, b)  r = Relu (c)  y = Conv (r, v) }", {{"activations", "int8"}}).graph;
  CHECK(g[g.order()[0]].inputs[0].quant->symmetric);
  CHECK(!g[g.order()[2]].inputs[0].quant->symmetric);
}

TEST_CASE("static: Split: all of its results, or none") {
  const std::string head = "g (float[1,2,4,4] x) => (float[1,1,4,4] y, float[1,1,4,4] z) < " +
                           weight("w", {2, 2, 1, 1}) + ", " + weight("v", {1, 1, 1, 1}) + " >";
  CHECK(assign(head + "{ c = Conv (x, w)  a, b = Split <axis = 1> (c)  y = Conv (a, v)  z = Tanh (b) }").decisions ==
        "c: x=uint8#0 w=int8[0]\na: c=uint8#1\ny: a=uint8#1 v=int8[0]\nz: b=uint8#1\n=> y=uint8#2\n");
}

TEST_CASE("static: a third operand times 0 is none, times anything but 1 is an obstacle") {
  CHECK(assign(plane_head + "{ y = Gemm <beta = 0.0> (x, w, x) }").decisions == "y: x=uint8#0 w=int8[1]\n");
  CHECK(contains(assign(plane_head + "{ y = Gemm <beta = 2.0> (x, w, b) }").skips, "multiplied by beta"));
}

TEST_CASE("static: refusals have reasons") {
  const auto why = [](const std::string& text, const Knobs& knobs = {}) {
    const auto a = assign(text, knobs);
    CHECK(a.decisions == "");
    return a.skips;
  };
  CHECK(contains(why(plane_head + "{ y = Gemm <alpha = 0.5> (x, w, b) }"), "only with alpha = 1.0"));
  CHECK(contains(why(plane_head + "{ y = Gemm (x, w, x) }"), "its bias is no constant"));
  CHECK(contains(why("g (float[3,4] x) => (float[3,4] y) < " + weight("w", {4, 4}) + ", " + weight("b", {3, 4}) +
                     " > { y = Gemm (x, w, b) }"),
                 "is no bias of 4 columns"));
  CHECK(contains(why("g (float16[3,4] x, float16[4,4] z) => (float16[3,4] y) { y = MatMul (x, z) }"),
                 "takes float32 models"));
  CHECK(contains(why(plane_head + "{ y = MatMul (x, w) }", {{"grain", "groups"}}), "use grain: channel"));
  CHECK(contains(why(plane_head + "{ y = MatMul (x, w) }", {{"symmetric", "false"}}), "use symmetric: true"));
  CHECK(contains(why("g (float[1,2,4,4] x, float[2,2,1,1] z) => (float[1,2,4,4] y) { y = Conv (x, z) }"),
                 "its weight is no constant"));
  CHECK(contains(why("g (int64[3,4] x) => (int64[3,4] y) < int64[1] k = {2} > { y = Mul (x, k) }"), ""));
}

TEST_CASE("static: Pad moves codes where it fills with zeros") {
  const std::string head = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) < " + weight("w", {2, 2, 1, 1}) +
                           ", int64[8] p = {0,0,1,1,0,0,1,1}, float zero = {0}, float one = {1} >";
  CHECK(
      contains(assign(head + "{ c = Conv (x, w)  d = Pad (c, p, zero)  y = Conv (d, w) }").decisions, "y: d=uint8#1"));
  CHECK(contains(assign(head + "{ c = Conv (x, w)  d = Pad (c, p)  y = Conv (d, w) }").decisions, "y: d=uint8#1"));
  CHECK(contains(assign(head + "{ c = Conv (x, w)  d = Pad (c, p, one)  y = Conv (d, w) }").decisions, "y: d=uint8#2"));
}

TEST_CASE("static: Resize moves codes only where it picks, not where it blends") {
  const std::string head = "g (float[1,2,4,4] x) => (float[1,2,8,8] y) < " + weight("w", {2, 2, 1, 1}) +
                           ", float[4] s = {1.0, 1.0, 2.0, 2.0} >";
  CHECK(contains(
      assign(head + "{ c = Conv (x, w)  r = Resize <mode = \"nearest\"> (c, , s)  y = Conv (r, w) }").decisions,
      "y: r=uint8#1"));
  CHECK(
      contains(assign(head + "{ c = Conv (x, w)  r = Resize <mode = \"linear\"> (c, , s)  y = Conv (r, w) }").decisions,
               "y: r=uint8#2"));
}

TEST_CASE("rules: the first that matches a node wins; the rest of the graph goes on") {
  const std::string plain = plane_head + "{ m = MatMul (x, w)  y = MatMul (m, v) }";
  const auto a = assign(plain, {}, {rule_of("y", {{"keep", "float"}}), rule_of("*", {{"weights", "uint8"}})});
  CHECK(a.decisions == "m: x=uint8#0 w=uint8[1]\n");
  CHECK(contains(a.skips, "a rule keeps it float"));
}

TEST_CASE("rules: fewer bits than integer kernels take become small weights in groups") {
  std::string head =
      "g (float[3,64] x) => (float[3,4] y) < " + weight("w", {64, 64}) + ", " + weight("v", {64, 4}) + " >";
  const auto a = assign(head + "{ m = MatMul (x, w)  y = MatMul (m, v) }", {}, {rule_of("y", {{"weights", "int4"}})});
  CHECK(a.decisions == "m: x=uint8#0 w=int8[1]\ny: m=int8/32~#1 v=int4/32\n");
}

TEST_CASE("a processor whose 8-bit products saturate gets 7-bit weights") {
  const auto a = assign(plane_head + "{ y = MatMul (x, w) }", {}, {}, [](Target& t) { t.saturating_u8s8 = true; });
  CHECK(a.decisions == "y: x=uint8#0 w=int7[1]\n");
}

TEST_CASE("weights: groups along the inputs, 8-bit activations inside the kernel") {
  const std::string head = "g (float[3,72] x) => (float[3,8] y) < " + weight("w", {72, 8}) + ", " +
                           weight("t", {8, 72}) + ", float[8] b = {1,2,3,4,5,6,7,8} >";
  const Knobs knobs{{"method", "weights"}, {"weights", "int4"}, {"grain", "groups"}};
  CHECK(assign(head + "{ y = MatMul (x, w) }", knobs).decisions == "y: x=int8/32~#0 w=int4/32\n");
  const auto gemm = assign(head + "{ y = Gemm <transB = 1> (x, t, b) }", knobs);
  CHECK(gemm.decisions == "y: x=int8/32~#0 t=int4/32\n");
  CHECK(gemm.graph[gemm.graph.order()[0]].inputs[1].quant->grain.axis == 1);
  auto exact = knobs;
  exact.push_back({"exact_inside", "true"});
  CHECK(assign(head + "{ y = MatMul (x, w) }", exact).decisions == "y: w=int4/32\n");
  // 2 bits in blocks of 16 have no integer kernel: the runtime computes them in float.
  const Knobs two{{"method", "weights"}, {"weights", "int2"}, {"grain", "groups"}, {"group", "16"}};
  CHECK(assign(head + "{ y = MatMul (x, w) }", two).decisions == "y: w=int2/16\n");
}

TEST_CASE("weights: where the target takes them, convolutions have a scale per output channel") {
  const auto standard = [](Target& t) { t = find_backend("onnx")->target(); };
  const std::string head = "g (float[1,8,4,4] x) => (float[1,4,4,4] y) < " + weight("w", {4, 8, 1, 1}) + " >";
  const Knobs channel{{"method", "weights"}, {"weights", "uint3"}, {"grain", "channel"}, {"symmetric", "false"}};
  CHECK(assign(head + "{ y = Conv (x, w) }", channel, {}, standard).decisions == "y: w=uint3[0]\n");
  const auto group = assign(head + "{ y = Conv (x, w) }",
                            {{"method", "weights"}, {"weights", "int4"}, {"grain", "groups"}}, {}, standard);
  CHECK(group.decisions == "");
  CHECK(contains(group.skips, "use grain: channel"));
}

TEST_CASE("weights: refusals have reasons") {
  const std::string head = "g (float[3,72] x) => (float[3,8] y) < " + weight("w", {72, 8}) + " >";
  const auto why = [&](const std::string& node, Knobs knobs) {
    knobs.insert(knobs.begin(), {"method", "weights"});
    const auto a = assign(head + "{ y = " + node + " }", knobs);
    CHECK(a.decisions == "");
    return a.skips;
  };
  CHECK(contains(why("MatMul (x, w)", {{"weights", "int4"}, {"grain", "groups"}, {"group", "48"}}),
                 "groups of 16 32 64 128 256, not 48"));
  CHECK_THROWS_WITH_AS(
      why("MatMul (x, w)", {{"weights", "e2m1"}}),
      "assign_formats: weights in e2m1 are not for ort-cpu: ONNX Runtime has no kernel that reads such weights", Error);
  CHECK_THROWS_WITH_AS(why("MatMul (x, w)", {{"weights", "if4"}}),
                       "assign_formats: weights in if4 are not for ort-cpu: ONNX has no type for its codes", Error);
  CHECK(contains(why("Gemm <transA = 1> (w, w)", {{"weights", "int4"}, {"grain", "groups"}}), "only with transA = 0"));
}

TEST_CASE("weights: block formats bring their groups, scales and rules") {
  const std::string text =
      "g (float[3,192] x) => (float[3,8] y) < " + weight("w", {192, 8}) + " > { y = MatMul (x, w) }";
  const auto with = [&](Knobs knobs) {
    knobs.insert(knobs.begin(), {"method", "weights"});
    return assign(text, knobs);
  };
  const auto spec = [](const Assigned& a) { return *a.graph[a.graph.nodes()[0]].inputs[1].quant; };
  const Assigned mx = with({{"weights", "mxfp8_e4m3"}});
  CHECK(contains(mx.decisions, "w=e4m3/32"));
  CHECK(spec(mx).scale_format == &number::e8m0);
  CHECK(spec(mx).rule == ScaleRule::search);
  CHECK(contains(with({{"weights", "bfp8"}}).decisions, "w=int8/16"));
  CHECK(contains(with({{"weights", "bfp8"}, {"group", "64"}}).decisions, "w=int8/64"));
  CHECK(spec(with({{"weights", "nf4_double"}})).second_group == double_group);
  CHECK(contains(with({{"weights", "nf4"}, {"grain", "groups"}}).decisions, "w=nf4/32"));
  CHECK(contains(with({{"weights", "nf4"}, {"grain", "groups"}, {"group", "128"}}).skips, "128 does not divide 192"));
  CHECK(contains(with({{"weights", "int3"}, {"grain", "groups"}}).decisions, "w=int3/32"));
}

TEST_CASE("weights: a table is left alone unless asked for") {
  const std::string text = "g (int64[3] i) => (float[3,32] y) < " + weight("t", {10, 32}) + " > { y = Gather (t, i) }";
  const Knobs knobs{{"method", "weights"}, {"weights", "int4"}, {"grain", "groups"}};
  CHECK(assign(text, knobs).decisions == "");
  auto with = knobs;
  with.push_back({"embeddings", "true"});
  CHECK(assign(text, with).decisions == "y: t=int4/32\n");
}

TEST_CASE("dynamic: products share the codes of one value; recurrent layers stay float with a reason") {
  const std::string head =
      "g (float[3,16] x) => (float[3,16] y) < " + weight("w", {16, 16}) + ", " + weight("v", {16, 16}) + " >";
  CHECK(assign(head + "{ a = MatMul (x, w)  b = MatMul (x, v)  y = Add (a, b) }", {{"method", "dynamic"}}).decisions ==
        "a: x=uint8~#0 w=int8[1]\nb: x=uint8~#0 v=int8[1]\n");
  const auto lstm = assign("g (float[3,1,4] x) => (float[3,1,1,2] y) < " + weight("w", {1, 8, 4}) + ", " +
                               weight("r", {1, 8, 2}) + " > { y = LSTM <hidden_size = 2> (x, w, r) }",
                           {{"method", "dynamic"}});
  CHECK(lstm.decisions == "");
  CHECK(contains(lstm.skips, "has no LSTM kernel"));
}

// SPDX-License-Identifier: Apache-2.0
// Decisions to nodes, for ONNX Runtime. Each trap of onnx-quantized.md section 3 and 4 has a case; tests/runtime sees
// that the real runtime does with the result what is claimed here.
#include <doctest/doctest.h>

#include "backends/backend.h"
#include "formats/base/error.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "recipes/reader/bind.h"
#include "tests/backends/specs.h"

using namespace qtool;

namespace {

Quant u8(float scale, std::int32_t zero) {
  QuantSpec s;
  s.format = &number::uint8;
  s.symmetric = false;
  s.scale = Tensor::scalar(scale);
  s.zero_point = Tensor::scalar(zero);
  return shared(s);
}
Quant i8(int axis) {
  QuantSpec s;
  s.format = &number::int8;
  s.narrow = true;
  s.grain = {axis < 0 ? Grain::Kind::tensor : Grain::Kind::axis, std::max(axis, 0), 0, 0};
  return shared(s);
}
Quant at_run_time() {
  QuantSpec s;
  s.format = &number::uint8;
  s.symmetric = false;
  s.dynamic = true;
  return shared(s);
}
Quant inside(std::int64_t group) {
  QuantSpec s;
  s.format = &number::int8;
  s.narrow = s.dynamic = true;
  s.grain = {Grain::Kind::groups, 1, group, 0};
  return shared(s);
}

Graph parse(const std::string& body, int opset = 17) {
  return parse_graph("<ir_version: 8, opset_import: [\"\" : " + std::to_string(opset) + "]>\n" + body);
}

NodeId node_of(const Graph& g, const std::string& output) { return Links(g).producer(*g.find_value(output)); }

void decide(Graph& g, const std::string& output, std::size_t position, Quant quant) {
  g[node_of(g, output)].inputs[position].quant = std::move(quant);
}

struct Lowered {
  Graph graph;
  std::string nodes;  // "y = Op(a, b)" in order
  std::string facts;  // kinds and reasons
};

Settings knobs(const std::vector<std::pair<std::string, std::string>>& words) {
  Settings settings;
  for (const auto& [name, value] : words) {
    Setting s;
    s.value = value;
    settings.push_back({name, s});
  }
  return settings;
}

Lowered lower(const Graph& g, const Settings& settings = {}) {
  Journal journal;
  const BackendDef* def = find_backend("ort-cpu");
  REQUIRE(def != nullptr);
  const auto emitter = def->make();
  bind_knobs(
      settings, [&](Options& o) { emitter->options(o); }, "emit");
  Lowered l;
  l.graph = emitter->lower(g, def->target(), journal);
  for (const NodeId n : l.graph.order()) {
    const Node& node = l.graph[n];
    std::string outs, ins;
    for (const ValueId v : node.outputs) outs += (outs.empty() ? "" : ", ") + l.graph[v].name;
    for (const Use& u : node.inputs) {
      ins += std::string(ins.empty() ? "" : ", ") + (u.value == ValueId::none ? "-" : l.graph[u.value].name);
    }
    l.nodes += outs + " = " + node.op + "(" + ins + ")\n";
  }
  for (const Json& fact : journal.facts()) l.facts += fact.dump() + "\n";
  return l;
}

const Tensor& data(const Graph& g, const std::string& name) {
  const auto v = g.find_value(name);
  REQUIRE(v);
  return g[*v].data;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::string plane =
    "g (float[3,2] x) => (float[3,2] y) < float[2,2] w = {1.0, -2.0, 0.5, 4.0}, float[2] b = {0.5, -0.25} >";
const std::string picture =
    "g (float[1,2,3,3] x) => (float[1,2,3,3] y) < float[2,2,1,1] w = {1.0, -2.0, 0.5, 4.0}, float[2] b = {0.5, -0.25} "
    ">";

}  // namespace

TEST_CASE("static: Conv: one Q, a DQ per operand, int32 bias on the scale of the product") {
  Graph g = parse(picture + "{ y = Conv (x, w, b) }");
  decide(g, "y", 0, u8(0.5F, 3));
  decide(g, "y", 1, i8(0));
  decide(g, "y", 2, bias());
  g.outputs[0].quant = u8(0.25F, 128);
  const Lowered l = lower(g);
  CHECK(l.nodes ==
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)\n"
        "x_dequantized = DequantizeLinear(x_quantized, x_scale, x_zero_point)\n"
        "w_dequantized = DequantizeLinear(w_quantized, w_scale, w_zero_point)\n"
        "b_dequantized = DequantizeLinear(b_quantized, b_scale, b_zero_point)\n"
        "y_unquantized = Conv(x_dequantized, w_dequantized, b_dequantized)\n"
        "y_quantized = QuantizeLinear(y_unquantized, y_scale, y_zero_point)\n"
        "y = DequantizeLinear(y_quantized, y_scale, y_zero_point)\n");
  CHECK(l.graph[l.graph.outputs[0].value].name == "y");
  CHECK(data(l.graph, "x_scale").shape() == Shape{});
  CHECK(data(l.graph, "x_zero_point").dtype() == DType::u8);
  CHECK(data(l.graph, "w_quantized").dtype() == DType::i8);
  CHECK(data(l.graph, "w_zero_point").shape() == Shape{2});
  const auto codes = data(l.graph, "w_quantized").read<std::int8_t>();
  CHECK(std::vector<int>(codes.begin(), codes.end()) == std::vector<int>{64, -127, 16, 127});
  CHECK(data(l.graph, "b_quantized").dtype() == DType::i32);
  const auto s_b = data(l.graph, "b_scale").read<float>(), s_w = data(l.graph, "w_scale").read<float>();
  CHECK(s_b[0] == 0.5F * s_w[0]);
  CHECK(s_b[1] == 0.5F * s_w[1]);
  CHECK(data(l.graph, "b_quantized").read<std::int32_t>()[0] == 64);  // round(0.5 / (0.5 * 2 / 127)): 63.5 to even
  CHECK(!l.graph.find_value("w"));                                    // the float weight is gone
  const Node& bias_dq = l.graph[node_of(l.graph, "b_dequantized")];
  CHECK(bias_dq.attrs.get("axis", std::int64_t{1}) == 0);
}

TEST_CASE("static: nothing decided, nothing changed") {
  const Graph g = parse(picture + "{ y = Conv (x, w, b) }");
  CHECK(diff_graphs(g, lower(g).graph) == "");
}

TEST_CASE("static: one Q and one DQ for a value with many readers; Shape reads the codes") {
  Graph g = parse(
      "g (float[2,2] x) => (float[2,2] y, int64[2] n) < float[2,2] w = {1, 2, 3, 4} > "
      "{ a = MatMul (x, w)  b = MatMul (x, w)  y = Add (a, b)  n = Shape (x) }");
  const Quant x = u8(0.5F, 0), w = i8(1);
  for (const char* n : {"a", "b"}) {
    decide(g, n, 0, x);
    decide(g, n, 1, w);
  }
  decide(g, "n", 0, x);
  const Lowered l = lower(g, knobs({{"only_standard", "true"}}));
  CHECK(contains(l.nodes, "n = Shape(x_quantized)"));
  CHECK(contains(l.nodes, "a = MatMul(x_dequantized, w_dequantized)\n"));
  CHECK(contains(l.nodes, "b = MatMul(x_dequantized, w_dequantized_1)\n"));  // a DQ of its own, on the same codes
  CHECK(contains(l.nodes, "w_dequantized_1 = DequantizeLinear(w_quantized, w_scale, w_zero_point)"));
}

TEST_CASE("static: a MatMul with a float result is written as the runtime would fuse it, with its bias") {
  Graph g = parse(plane + "{ m = MatMul (x, w)  y = Add (b, m) }");
  decide(g, "m", 0, u8(0.5F, 3));
  decide(g, "m", 1, i8(1));
  CHECK(lower(g).nodes ==
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)\n"
        "y = MatMulIntegerToFloat(x_quantized, w_quantized, x_scale, w_scale, x_zero_point, w_zero_point, b)\n");
  // Codes behind it: pairs, for QLinearMatMul.
  Graph codes = parse(plane + "{ m = MatMul (x, w)  y = MatMul (m, w) }");
  decide(codes, "m", 0, u8(0.5F, 3));
  decide(codes, "m", 1, i8(1));
  decide(codes, "y", 0, u8(0.25F, 3));
  decide(codes, "y", 1, i8(1));
  CHECK(contains(lower(codes).nodes, "m = MatMul(x_dequantized, w_dequantized)\n"));
}

TEST_CASE("static: values of one spec share one scale: moves need equal initializers") {
  Graph g = parse(picture + "{ c = Conv (x, w)  m = MaxPool <kernel_shape = [1, 1]> (c)  y = Conv (m, w) }");
  decide(g, "c", 0, u8(0.5F, 0));
  decide(g, "c", 1, i8(0));
  const Quant move = u8(0.25F, 10);
  decide(g, "m", 0, move);
  decide(g, "y", 0, move);
  decide(g, "y", 1, i8(0));
  g.outputs[0].quant = u8(1.0F, 0);
  const Lowered l = lower(g);
  CHECK(contains(l.nodes, "m_quantized = QuantizeLinear(m, c_scale, c_zero_point)"));
  CHECK(!l.graph.find_value("m_scale"));
}

TEST_CASE("static: Pad works on the codes and fills with the zero point") {
  Graph g = parse(
      "g (float[1,2,3,3] x) => (float[1,2,5,5] y) < float[2,2,1,1] w = {1.0, -2.0, 0.5, 4.0}, int64[8] p = "
      "{0,0,1,1,0,0,1,1} > { c = Pad (x, p)  y = Conv (c, w) }");
  const Quant x = u8(0.5F, 3);
  decide(g, "c", 0, x);
  decide(g, "y", 0, x);
  decide(g, "y", 1, i8(0));
  g.outputs[0].quant = u8(1.0F, 0);
  const Lowered l = lower(g);
  CHECK(contains(l.nodes, "c_quantized = Pad(x_quantized, p, x_zero_point)\n"));
  CHECK(contains(l.nodes, "c_dequantized = DequantizeLinear(c_quantized, x_scale, x_zero_point)\n"));
  CHECK(!l.graph.find_value("c"));
}

TEST_CASE("trap 2: a float layer between pairs keeps its float weights") {
  Graph g = parse(picture + "{ c = Conv (x, w)  r = Relu (c)  y = Conv (r, w) }");
  decide(g, "c", 0, u8(0.5F, 0));  // somebody else reads x as codes; this Conv stays float
  decide(g, "y", 0, u8(0.25F, 0));
  decide(g, "y", 1, i8(0));
  g.outputs[0].quant = u8(1.0F, 0);
  const Lowered l = lower(g);
  CHECK(contains(l.nodes, "x_dequantized_barrier = Max(x_dequantized)\n"));
  CHECK(contains(l.nodes, "c = Conv(x_dequantized_barrier, w)\n"));
  // Without a quantizer behind there is nothing to guard against.
  Graph open = parse(picture + "{ c = Conv (x, w)  y = Tanh (c) }");
  decide(open, "c", 0, u8(0.5F, 0));
  CHECK(!contains(lower(open).nodes, "Max("));
}

TEST_CASE("trap 3: MatMul and a constant Add: the row becomes an int32 bias") {
  Graph g = parse(plane + "{ m = MatMul (x, w)  y = Add (m, b) }");
  decide(g, "m", 0, u8(0.5F, 0));
  decide(g, "m", 1, i8(1));
  const Lowered l = lower(g, knobs({{"only_standard", "true"}}));
  CHECK(contains(l.nodes, "y = Add(m, b_dequantized)\n"));
  CHECK(data(l.graph, "b_quantized").dtype() == DType::i32);
  CHECK(data(l.graph, "b_scale").read<float>()[1] == 0.5F * data(l.graph, "w_scale").read<float>()[1]);
}

TEST_CASE("trap 3: MatMul and an Add of a value: kept apart, in two dimensions alone") {
  Graph g = parse(plane + "{ m = MatMul (x, w)  y = Add (x, m) }");
  decide(g, "m", 0, u8(0.5F, 0));
  decide(g, "m", 1, i8(1));
  const Settings standard = knobs({{"only_standard", "true"}});
  CHECK(contains(lower(g, standard).nodes, "y = Add(x, m_barrier)\n"));
  Graph deep = parse(
      "g (float[N,3,2] x) => (float[N,3,2] y) < float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2} > { m = MatMul (x, w) "
      " y = Add (m, b) }");
  decide(deep, "m", 0, u8(0.5F, 0));
  decide(deep, "m", 1, i8(1));
  CHECK(contains(lower(deep, standard).nodes, "y = Add(m, b)\n"));
}

TEST_CASE("a third operand of Gemm that is multiplied by 0 is left out: the kernels would add it") {
  Graph g = parse(plane + "{ y = Gemm <beta = 0.0> (x, w, b) }");
  decide(g, "y", 0, u8(0.5F, 0));
  decide(g, "y", 1, i8(1));
  CHECK(contains(lower(g).nodes, "y = Gemm(x_dequantized, w_dequantized)\n"));
  g[node_of(g, "y")].inputs[0].quant = at_run_time();
  CHECK(lower(g).nodes == "y = DynamicQuantizeMatMul(x, w_quantized, w_scale, w_zero_point)\n");
}

TEST_CASE("a channel too small to carry its bias as int32 gets a larger scale") {
  Graph g = parse(
      "g (float[3,2] x) => (float[3,2] y) < float[2,2] w = {1.0, 1e-20, 1.0, 1e-20}, float[2] b = {1.0, 1000.0} > { y "
      "= Gemm (x, w, b) }");
  decide(g, "y", 0, u8(0.5F, 0));
  decide(g, "y", 1, i8(1));
  decide(g, "y", 2, bias());
  const Lowered l = lower(g);
  const auto s_w = data(l.graph, "w_scale").read<float>();
  const auto b = data(l.graph, "b_quantized").read<std::int32_t>();
  CHECK(static_cast<double>(b[1]) * 0.5 * static_cast<double>(s_w[1]) == doctest::Approx(1000.0));
}

TEST_CASE("a channel of vanishing weights gets a scale that is a normal number, also with a bias of 0") {
  Graph g = parse(
      "g (float[3,2] x) => (float[3,2] y) < float[2,2] w = {1.0, 1e-37, 1.0, 1e-37}, float[2] b = {1.0, 0.0} > "
      "{ y = Gemm (x, w, b) }");
  decide(g, "y", 0, u8(0.5F, 0));
  decide(g, "y", 1, i8(1));
  decide(g, "y", 2, bias());
  CHECK(data(lower(g).graph, "b_scale").read<float>()[1] >= 0x1p-100F);
}

TEST_CASE("versions: an IR newer than the target's is not kept for its own sake") {
  Graph g = parse(plane + "{ y = MatMul (x, w) }");
  ModelInfo model = *g.model;
  model.ir_version = 14;
  g.model = std::make_shared<const ModelInfo>(model);
  CHECK(lower(g).graph.model->ir_version == 13);
}

TEST_CASE("a graph output that two readers share keeps its name") {
  Graph g = parse(picture + "{ y = Conv (x, w)  z = Conv (y, w) }");
  g.outputs.push_back({*g.find_value("z"), nullptr});
  const Quant y = u8(0.5F, 7);
  decide(g, "y", 0, u8(0.5F, 0));
  decide(g, "y", 1, i8(0));
  decide(g, "z", 0, y);
  decide(g, "z", 1, i8(0));
  g.outputs[0].quant = y;
  g.outputs[1].quant = u8(0.5F, 9);
  const Lowered l = lower(g);
  CHECK(contains(l.nodes, "y = DequantizeLinear(y_quantized, y_scale, y_zero_point)\n"));
  CHECK(contains(l.nodes, "z_unquantized = Conv(y, w_dequantized_1)\n"));
}

TEST_CASE("an activation without a range is an error that names the step to add") {
  Graph g = parse(plane + "{ y = MatMul (x, w) }");
  QuantSpec s;
  s.format = &number::uint8;
  decide(g, "y", 0, shared(s));
  decide(g, "y", 1, i8(1));
  try {
    lower(g);
    FAIL("nothing was thrown");
  } catch (const Error& e) {
    CHECK(contains(e.hint(), "calibrate_ranges"));
  }
}

TEST_CASE("versions: int8 needs opset 13 and its IR; com.microsoft is imported when used") {
  Graph g = parse(plane + "{ y = MatMul (x, w) }", 17);
  decide(g, "y", 0, inside(16));
  decide(g, "y", 1, groups(number::int4, 0, 16));
  const Lowered l = lower(g);
  CHECK(l.graph.opset() == 17);
  CHECK(l.graph.opset("com.microsoft") == 1);
  CHECK(l.graph.model->ir_version == 8);
}

// onnx-quantized.md section 4, worked example: K = 80, block 32, N = 2, column 0 = k mod 16, column 1 = 15 - k mod 16,
// zero points 1 2 3 and 4 5 6, scales 1 2 3 and 10 20 30.
TEST_CASE("weights: MatMulNBits packs as in the worked example, tails and odd rows of zero points included") {
  Graph g = parse("g (float[1,80] x) => (float[1,2] y) < float[1] w = {0} > { y = MatMul (x, w) }");
  Value& w = g[*g.find_value("w")];
  w.data = Tensor(DType::f32, {80, 2});
  w.type.shape = {80, 2};
  QuantSpec s;
  s.format = &number::uint4;
  s.symmetric = false;
  s.grain = {Grain::Kind::groups, 0, 32, 0};
  s.scale = Tensor::of<float>({3, 2}, {1, 10, 2, 20, 3, 30});
  s.zero_point = Tensor::of<std::int32_t>({3, 2}, {1, 4, 2, 5, 3, 6});
  s.codes = Tensor(DType::u8, {80, 2});
  const auto codes = s.codes.write<std::uint8_t>();
  for (std::size_t k = 0; k < 80; ++k) {
    codes[2 * k] = static_cast<std::uint8_t>(k % 16);
    codes[2 * k + 1] = static_cast<std::uint8_t>(15 - k % 16);
  }
  decide(g, "y", 1, shared(s));
  const Lowered l = lower(g);
  CHECK(l.nodes == "y = MatMulNBits(x, w_packed, w_scales, w_zero_points)\n");
  const Tensor& packed = data(l.graph, "w_packed");
  CHECK(packed.shape() == Shape{2, 3, 16});
  const auto b = packed.read<std::uint8_t>();
  const std::vector<int> up{0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE},
      down{0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01};
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(b[i] == up[i]);
    CHECK(b[8 + i] == up[i]);
    CHECK(b[32 + i] == up[i]);
    CHECK(b[40 + i] == 0);
    CHECK(b[48 + i] == down[i]);
  }
  const auto z = data(l.graph, "w_zero_points").read<std::uint8_t>();
  CHECK(std::vector<int>(z.begin(), z.end()) == std::vector<int>{0x21, 0x03, 0x54, 0x06});
  const auto scales = data(l.graph, "w_scales").read<float>();
  CHECK(std::vector<float>(scales.begin(), scales.end()) == std::vector<float>{1, 2, 3, 10, 20, 30});
  const Node& node = l.graph[node_of(l.graph, "y")];
  CHECK(node.domain == "com.microsoft");
  CHECK(node.attrs.get("accuracy_level", std::int64_t{-1}) == 1);  // no 8-bit activations inside: float32
}

TEST_CASE("weights: signed codes are stored shifted, without zero points; accuracy level is written out") {
  Graph g = parse(
      "g (float[1,16] x) => (float[1,1] y) < float[16,1] w = {-8,-7,-6,-5,-4,-3,-2,-1,0,1,2,3,4,5,6,7} > { y = MatMul "
      "(x, w) }");
  decide(g, "y", 0, inside(16));
  QuantSpec s = *groups(number::int4, 0, 16);
  s.scale = Tensor::of<float>({1, 1}, {1});
  decide(g, "y", 1, shared(s));
  const Lowered l = lower(g);
  CHECK(l.nodes == "y = MatMulNBits(x, w_packed, w_scales)\n");
  const auto b = data(l.graph, "w_packed").read<std::uint8_t>();
  CHECK(std::vector<int>(b.begin(), b.end()) == std::vector<int>{0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE});
  CHECK(l.graph[node_of(l.graph, "y")].attrs.get("accuracy_level", std::int64_t{-1}) == 4);
}

TEST_CASE("weights: Gemm, transposed or not, with a bias, with a bias as a row, with an operand that is none") {
  const std::string head = "g (float[3,16] x) => (float[3,2] y) < float[2,16] t = {" + [] {
    std::string v;
    for (int i = 0; i < 32; ++i) v += (i ? ", " : "") + std::to_string(i - 16) + ".0";
    return v;
  }() + "}, float[2] b = {1, 2}, float[1,2] r = {1, 2}, float[3,1] c = {1, 2, 3} >";
  const auto lowered = [&](const std::string& third) {
    Graph g = parse(head + "{ y = Gemm <transB = 1> (x, t" + third + ") }");
    decide(g, "y", 0, inside(16));
    decide(g, "y", 1, groups(number::int8, 1, 16));
    return lower(g).nodes;
  };
  CHECK(lowered("") == "y = MatMulNBits(x, t_packed, t_scales)\n");
  CHECK(lowered(", b") == "y = MatMulNBits(x, t_packed, t_scales, -, -, b)\n");
  CHECK(lowered(", r") == "y = MatMulNBits(x, t_packed, t_scales, -, -, r_row)\n");
  CHECK(lowered(", c") == "y_product = MatMulNBits(x, t_packed, t_scales)\ny = Add(y_product, c)\n");
}

TEST_CASE("weights: a shared weight has codes of its own for each product") {
  Graph g = parse(
      "g (float[1,16] x) => (float[1,1] y) < float[16,1] w = {-8,-7,-6,-5,-4,-3,-2,-1,0,1,2,3,4,5,6,7} > { a = MatMul "
      "(x, w)  b = MatMul (x, w)  y = Add (a, b) }");
  for (const char* n : {"a", "b"}) decide(g, n, 1, groups(number::int4, 0, 16));
  CHECK(lower(g).nodes ==
        "a = MatMulNBits(x, w_packed, w_scales)\nb = MatMulNBits(x, w_packed_1, w_scales_1)\ny = Add(a, b)\n");
}

TEST_CASE("weights: a table becomes GatherBlockQuantized") {
  Graph g = parse("g (int64[2] i) => (float[2,16] y) < float[2,16] t = {" + [] {
    std::string v;
    for (int i = 0; i < 32; ++i) v += (i ? ", " : "") + std::to_string(i - 16) + ".0";
    return v;
  }() + "} > { y = Gather (t, i) }");
  decide(g, "y", 0, groups(number::int4, 1, 16));
  const Lowered l = lower(g);
  CHECK(l.nodes == "y = GatherBlockQuantized(t_packed, i, t_scales)\n");
  CHECK(data(l.graph, "t_packed").shape() == Shape{2, 8});
}

TEST_CASE("dynamic: one product quantizes inside, several share the codes; a constant Add is the bias") {
  const std::string head =
      "g (float[3,2] x) => (float[3,2] y) < float[2,2] w = {1.0, -2.0, 0.5, 4.0}, float[2,2] v = {1, 2, 3, 4}, "
      "float[2] b = {0.5, -0.25} >";
  Graph one = parse(head + "{ m = MatMul (x, w)  y = Add (m, b) }");
  decide(one, "m", 0, at_run_time());
  decide(one, "m", 1, i8(1));
  CHECK(lower(one).nodes == "y = DynamicQuantizeMatMul(x, w_quantized, w_scale, w_zero_point, b)\n");
  Graph two = parse(head + "{ m = MatMul (x, w)  n = Gemm <transB = 1> (x, v)  y = Add (m, n) }");
  const Quant x = at_run_time();
  decide(two, "m", 0, x);
  decide(two, "n", 0, x);
  decide(two, "m", 1, i8(1));
  decide(two, "n", 1, i8(0));
  const Lowered l = lower(two);
  CHECK(l.nodes ==
        "x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear(x)\n"
        "m = MatMulIntegerToFloat(x_quantized, w_quantized, x_scale, w_scale, x_zero_point, w_zero_point)\n"
        "n = MatMulIntegerToFloat(x_quantized, v_quantized, x_scale, v_scale, x_zero_point, v_zero_point)\n"
        "y = Add(m, n)\n");
  const auto v = data(l.graph, "v_quantized").read<std::int8_t>();  // [K,N]: transposed
  CHECK(std::vector<int>(v.begin(), v.end()) == std::vector<int>{64, 95, 127, 127});
}

TEST_CASE("the target's table: refusals say what the runtime has instead") {
  const Target t = find_backend("ort-cpu")->target();
  Node gelu;
  gelu.op = "Gelu";
  CHECK(t.accepts(gelu, Role::arithmetic, "uint8", {}).why == "ONNX Runtime has no Gelu kernel on 8-bit values");
  Node conv;
  conv.op = "Conv";
  CHECK(t.accepts(conv, Role::product, "uint8", "int8"));
  CHECK(t.accepts(conv, Role::product, "uint16", "int8").why ==
        "ONNX Runtime runs Conv with activations in uint8, int8, not uint16");
  Node resize;
  resize.op = "Resize";
  CHECK(t.accepts(resize, Role::move, "uint8", {}));  // mode: nearest is the default
  resize.attrs.set("mode", std::string("linear"));
  CHECK(t.accepts(resize, Role::move, "uint8", {}).why ==
        "ONNX Runtime runs Resize on 8-bit values only with mode = \"nearest\"");
  CHECK(find_backend("nowhere") == nullptr);
}

TEST_CASE("form qoperator: kernels read and write codes; a redundant Relu is gone") {
  const Settings form = knobs({{"form", "qoperator"}});
  Graph g = parse(picture +
                  "{ c = Conv (x, w, b)  r = Relu (c)  m = MaxPool <kernel_shape = [1, 1]> (r)  s = Add (m, m)  "
                  "y = Conv (s, w) }");
  const Quant r = u8(0.25F, 0), s = u8(0.5F, 0);
  decide(g, "c", 0, u8(0.5F, 3));
  decide(g, "c", 1, i8(0));
  decide(g, "c", 2, bias());
  decide(g, "m", 0, r);
  decide(g, "s", 0, r);
  decide(g, "s", 1, r);
  decide(g, "y", 0, s);
  decide(g, "y", 1, i8(0));
  g.outputs[0].quant = u8(1.0F, 128);
  const Lowered l = lower(g, form);
  CHECK(l.nodes ==
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)\n"
        "r_quantized = QLinearConv(x_quantized, x_scale, x_zero_point, w_quantized, w_scale, w_zero_point, r_scale, "
        "r_zero_point, b_quantized)\n"
        "m_quantized = MaxPool(r_quantized)\n"
        "s_quantized = QLinearAdd(m_quantized, r_scale, r_zero_point, m_quantized, r_scale, r_zero_point, s_scale, "
        "s_zero_point)\n"
        "y_quantized = QLinearConv(s_quantized, s_scale, s_zero_point, w_quantized_1, w_scale_1, w_zero_point_1, "
        "y_scale, y_zero_point)\n"
        "y = DequantizeLinear(y_quantized, y_scale, y_zero_point)\n");
}

TEST_CASE("form qoperator: a Relu whose zero point is not the lowest code stays, in float") {
  Graph g = parse(picture + "{ c = Conv (x, w)  r = Relu (c)  y = Conv (r, w) }");
  decide(g, "c", 0, u8(0.5F, 3));
  decide(g, "c", 1, i8(0));
  decide(g, "y", 0, u8(0.25F, 7));
  decide(g, "y", 1, i8(0));
  g.outputs[0].quant = u8(1.0F, 128);
  const Lowered l = lower(g, knobs({{"form", "qoperator"}}));
  CHECK(contains(l.nodes, "c = Conv(x_dequantized, w_dequantized)\n"));
  CHECK(contains(l.nodes, "r = Relu(c)\n"));
}

TEST_CASE("form qoperator: Gemm with and without codes behind") {
  Graph g = parse(plane + "{ m = Gemm (x, w, b)  y = Gemm (m, w, b) }");
  decide(g, "m", 0, u8(0.5F, 3));
  decide(g, "m", 1, i8(1));
  decide(g, "m", 2, bias());
  decide(g, "y", 0, u8(0.25F, 3));
  decide(g, "y", 1, i8(1));
  decide(g, "y", 2, bias());
  const Lowered l = lower(g, knobs({{"form", "qoperator"}}));
  CHECK(contains(l.nodes,
                 "m_quantized = QGemm(x_quantized, x_scale, x_zero_point, w_quantized, w_scale, w_zero_point, "
                 "b_quantized, m_scale, m_zero_point)\n"));
  CHECK(contains(l.nodes,
                 "y = QGemm(m_quantized, m_scale, m_zero_point, w_quantized_1, w_scale_1, w_zero_point_1, "
                 "b_quantized_1)\n"));
}

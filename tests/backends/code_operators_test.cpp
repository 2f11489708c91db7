// SPDX-License-Identifier: Apache-2.0
// Operators on codes give the same bytes on every integer kernel as on the plain version, which has none; and groups
// between DequantizeLinear and QuantizeLinear run as what runtimes make of them.
#include <doctest/doctest.h>

#include <random>
#include <string>

#include "backends/cpu/kernel.h"
#include "calib/executor.h"
#include "formats/ir/integer_group.h"
#include "formats/ir/text.h"

namespace qtool {
namespace {

class Maker {
 public:
  explicit Maker(std::uint32_t seed) : random_(seed) {}

  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_() % static_cast<std::uint32_t>(high - low + 1));
  }
  DType code_type() { return between(0, 1) == 0 ? DType::u8 : DType::i8; }
  Tensor codes(DType dtype, Shape shape) {
    Tensor t(dtype, std::move(shape));
    for (std::byte& b : t.write_bytes()) b = static_cast<std::byte>(random_());
    return t;
  }
  Tensor scale(Shape shape) {
    Tensor t(DType::f32, std::move(shape));
    for (float& v : t.write<float>()) v = static_cast<float>(between(1, 1000)) / 65536.0F;
    return t;
  }
  Tensor sums(Shape shape) {
    Tensor t(DType::i32, std::move(shape));
    for (std::int32_t& v : t.write<std::int32_t>()) v = static_cast<std::int32_t>(between(-20000, 20000));
    return t;
  }

 private:
  std::mt19937 random_;
};

Graph node_of(const std::string& op, const std::string& domain, const std::vector<Tensor>& inputs, Attrs attrs) {
  auto info = std::make_shared<ModelInfo>();
  info->opsets[""] = 17;
  info->opsets["com.microsoft"] = 1;
  Graph g;
  g.model = info;
  Node node;
  node.op = node.name = op;
  node.domain = domain;
  node.attrs = std::move(attrs);
  for (const Tensor& x : inputs) {
    if (x.empty()) {
      node.inputs.push_back({});
      continue;
    }
    Value v;
    v.name = "input" + std::to_string(node.inputs.size());
    v.data = x;
    v.type.dtype = x.dtype();
    v.type.known_dtype = v.type.known_rank = true;
    v.type.shape = x.shape();
    node.inputs.push_back({g.add_value(std::move(v)), nullptr});
  }
  Value y;
  y.name = "y";
  node.outputs = {g.add_value(std::move(y))};
  g.outputs = {{node.outputs[0], nullptr}};
  g.add_node(std::move(node));
  return g;
}

void same_on_every_kernel(const std::string& op, const std::string& domain, const std::vector<Tensor>& inputs,
                          const Attrs& attrs = {}) {
  const Graph g = node_of(op, domain, inputs, attrs);
  Threads plain(1);
  const Tensor expected = Executor(g, Reading::reference, plain).run({})[0];
  CAPTURE(op);
  for (const Tensor& x : inputs) CAPTURE(to_string(x.shape()));
  for (const IntegerKernel* kernel : integer_kernels()) {
    if (!kernel->runs(processor())) continue;
    const OnKernel integers(*kernel);
    for (const int count : {1, 3}) {
      Threads threads(count, &integers);
      CAPTURE(kernel->name);
      CHECK(Executor(g, Reading::reference, threads).run({})[0].same_bytes(expected));
    }
  }
}

Attrs ints(std::initializer_list<std::pair<const char*, std::vector<std::int64_t>>> list) {
  Attrs out;
  for (const auto& [name, value] : list) out.set(name, value);
  return out;
}

}  // namespace

TEST_CASE("products of codes: every kernel as the plain version") {
  Maker m(1);
  for (int i = 0; i < 40; ++i) {
    const std::int64_t rows = m.between(1, 33), n = m.between(1, 40), k = m.between(1, 90), stack = m.between(1, 3);
    const DType ta = m.code_type(), tb = m.code_type(), ty = m.code_type();
    const Shape a = i % 3 == 0 ? Shape{rows, k} : Shape{stack, 2, rows, k},
                b = i % 2 == 0 ? Shape{k, n} : Shape{2, k, n};
    const bool columns = b.size() == 2 && i % 4 == 0, each_row = a.size() == 2 && i % 5 == 0;
    const Shape of_rows = each_row ? Shape{rows} : Shape{}, of_columns = columns ? Shape{n} : Shape{};
    const Tensor x = m.codes(ta, a), xz = m.codes(ta, of_rows), w = m.codes(tb, b), wz = m.codes(tb, of_columns);
    const Tensor xs = m.scale({}), ws = m.scale(of_columns), ys = m.scale({}), yz = m.codes(ty, {});
    same_on_every_kernel("MatMulInteger", "", {x, w, xz, wz});
    same_on_every_kernel("MatMulInteger", "", {x, w});
    same_on_every_kernel("QLinearMatMul", "", {x, xs, xz, w, ws, wz, ys, yz});
    same_on_every_kernel("MatMulIntegerToFloat", "com.microsoft", {x, w, xs, ws, xz, wz, m.scale({n})});
  }
}

TEST_CASE("QGemm: every kernel as the plain version") {
  Maker m(2);
  for (int i = 0; i < 24; ++i) {
    const std::int64_t rows = m.between(1, 20), n = m.between(1, 40), k = m.between(1, 60);
    const std::int64_t ta = i % 2, tb = i / 2 % 2;
    const DType da = m.code_type(), db = m.code_type();
    Attrs attrs;
    attrs.set("transA", ta);
    attrs.set("transB", tb);
    std::vector<Tensor> inputs{m.codes(da, ta != 0 ? Shape{k, rows} : Shape{rows, k}),
                               m.scale({}),
                               m.codes(da, {}),
                               m.codes(db, tb != 0 ? Shape{n, k} : Shape{k, n}),
                               m.scale({n}),
                               m.codes(db, {n}),
                               i % 3 == 0 ? Tensor() : m.sums(i % 3 == 1 ? Shape{n} : Shape{rows, n})};
    if (i % 4 != 0) {
      inputs.push_back(m.scale({}));
      inputs.push_back(m.codes(DType::u8, {}));
    }
    same_on_every_kernel("QGemm", "com.microsoft", inputs, attrs);
  }
}

TEST_CASE("convolutions of codes: every kernel as the plain version") {
  Maker m(3);
  for (int i = 0; i < 60; ++i) {
    const std::int64_t groups = i % 3 == 0 ? 1 : m.between(1, 5), inputs = i % 3 == 1 ? 1 : m.between(1, 6),
                       outputs = m.between(1, 5), kernel = m.between(1, 3);
    const DType tx = m.code_type(), tw = m.code_type();
    Shape image{m.between(1, 2), groups * inputs}, taps{groups * outputs, inputs};
    std::vector<std::int64_t> strides, dilations, pads;
    const std::int64_t axes = i % 7 == 0 ? 1 : i % 7 == 1 ? 3 : 2;
    for (std::int64_t axis = 0; axis < axes; ++axis) {
      image.push_back(m.between(6, axes == 3 ? 8 : 21));
      taps.push_back(kernel);
      strides.push_back(m.between(1, 2));
      dilations.push_back(m.between(1, 2));
      pads.push_back(m.between(0, 2));
    }
    for (std::int64_t axis = 0; axis < axes; ++axis) pads.push_back(m.between(0, 2));
    Attrs attrs = ints({{"strides", strides}, {"dilations", dilations}, {"pads", pads}});
    attrs.set("group", groups);
    const std::int64_t channels = groups * outputs;
    const Shape each = i % 4 == 0 ? Shape{channels} : Shape{};
    const Tensor x = m.codes(tx, image), w = m.codes(tw, taps), xz = m.codes(tx, {}), wz = m.codes(tw, each);
    same_on_every_kernel("ConvInteger", "", {x, w, xz, wz}, attrs);
    same_on_every_kernel("ConvInteger", "", {x, w}, attrs);
    same_on_every_kernel("QLinearConv", "",
                         {x, m.scale({}), xz, w, m.scale(each), wz, m.scale({}), m.codes(DType::u8, {}),
                          i % 2 == 0 ? Tensor() : m.sums({channels})},
                         attrs);
  }
}

TEST_CASE("a dynamically quantized product: every kernel as the plain version") {
  Maker m(4);
  const Tensor x = m.scale({7, 30}), b = m.codes(DType::i8, {30, 19});
  same_on_every_kernel("DynamicQuantizeMatMul", "com.microsoft", {x, b, m.scale({19}), m.codes(DType::i8, {19})});
}

TEST_CASE("weights in blocks with int8 activations: every kernel as the plain version") {
  Maker m(6);
  for (int i = 0; i < 24; ++i) {
    const std::int64_t rows = m.between(1, 40), n = m.between(1, 60), k = m.between(1, 200), block = 16 << i % 4;
    const std::int64_t bits = 2 << i % 3, blocks = (k + block - 1) / block;
    Attrs attrs;
    for (const auto& [name, value] : std::vector<std::pair<const char*, std::int64_t>>{
             {"K", k}, {"N", n}, {"bits", bits}, {"block_size", block}, {"accuracy_level", 4}}) {
      attrs.set(name, value);
    }
    Tensor x = m.scale({2, rows, k});
    for (float& v : x.write<float>()) v -= m.between(0, 9) == 0 ? v : 0.01F;
    const Tensor zeros = i % 2 == 0 ? Tensor() : m.codes(DType::u8, {n, (blocks * bits + 7) / 8});
    same_on_every_kernel("MatMulNBits", "com.microsoft",
                         {x, m.codes(DType::u8, {n, blocks, block * bits / 8}), m.scale({n, blocks}), zeros, Tensor(),
                          i % 3 == 0 ? Tensor() : m.scale({n})},
                         attrs);
  }
}

namespace {

constexpr const char* convolution = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 2, 4, 4] x) => (float[1, 3, 4, 4] y)
<float xs = {0.25}, uint8 xz = {3}, int8[3, 2, 1, 1] wq = {1, -2, 3, -4, 5, -6}, float[3] ws = {0.5, 0.25, 0.125},
 int8[3] wz = {0, 0, 0}, int32[3] bq = {7, 8, -9}, float[3] bs = {0.125, 0.0625, 0.03125}, int32[3] bz = {0, 0, 0},
 float ys = {0.5}, uint8 yz = {0}>
{
  q = QuantizeLinear(x, xs, xz)
  xd = DequantizeLinear(q, xs, xz)
  wd = DequantizeLinear<axis = 0>(wq, ws, wz)
  bd = DequantizeLinear<axis = 0>(bq, bs, bz)
  c = Conv(xd, wd, bd)
  r = Relu(c)
  p = QuantizeLinear(r, ys, yz)
  y = DequantizeLinear(p, ys, yz)
})";

std::optional<IntegerGroup> group_at(const Graph& g, const char* output) {
  const Links links(g);
  return integer_group(g, links, links.producer(*g.find_value(output)));
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t i = text.find(from);
  REQUIRE(i != std::string::npos);
  return text.replace(i, from.size(), to);
}

}  // namespace

TEST_CASE("a convolution between codes is one group, with a Relu that cuts nothing off") {
  const Graph g = parse_graph(convolution);
  const auto group = group_at(g, "c");
  REQUIRE(group);
  CHECK(group->node.op == "QLinearConv");
  CHECK(group->node.outputs[0] == *g.find_value("p"));
  CHECK(group->inside.size() == 5);  // three operands, c and r

  Threads threads(1);
  const Executor executor(g, Reading::reference, threads);
  Maker m(5);
  const Tensor x = m.scale({1, 2, 4, 4});
  const Feeds feeds{{*g.find_value("x"), x}};
  const Tensor whole = executor.run(feeds)[0];
  // All scales are powers of two, so that the float operators between are exact.
  const std::vector<ValueId> inside{*g.find_value("r"), *g.find_value("y")};
  const std::vector<Tensor> parts = executor.run(feeds, inside);
  CHECK(parts[1].same_bytes(whole));
  const std::vector<ValueId> wanted{*g.find_value("y")};
  CHECK(executor.run({{inside[0], parts[0]}}, wanted)[0].same_bytes(whole));  // a feed inside is heard
}

TEST_CASE("groups that mean something else stay as they are") {
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"uint8 yz = {0}", "uint8 yz = {9}"},  // the Relu cuts off codes below 9
           {"bs = {0.125,", "bs = {0.25,"},       // not a bias of sums
           {"bz = {0, 0, 0}", "bz = {0, 1, 0}"},  //
           {"wd = DequantizeLinear<axis = 0>", "wd = DequantizeLinear<axis = 1>"},
           {"r = Relu(c)", "r = Add(c, c)"},  // two readers
       }) {
    CAPTURE(to);
    CHECK(!group_at(parse_graph(replaced(convolution, from, to)), "c"));
  }
}

TEST_CASE("products without a quantizer behind them become products that give floats") {
  const Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (uint8[2, 3] a) => (float[2, 4] y, float[2, 4] z)
<float as = {0.25}, uint8 az = {3}, int8[3, 4] bq = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[4] bs = {1, 2, 3, 4},
 int8[4] bz = {0, 0, 0, 0}, float b1 = {0.5}, int8 z1 = {1}>
{
  ad = DequantizeLinear(a, as, az)
  bd = DequantizeLinear<axis = 1>(bq, bs, bz)
  cd = DequantizeLinear(bq, b1, z1)
  y = MatMul(ad, bd)
  z = Gemm<alpha = 0.5>(ad, cd)
})");
  CHECK(group_at(g, "y")->node.op == "MatMulIntegerToFloat");
  CHECK(group_at(g, "z")->node.op == "QGemm");
  CHECK(group_at(g, "z")->inside.size() == 2);
}

namespace {

/// The group that makes `y` gives the bytes that its nodes give one by one: where a float inside it is fed they run.
void as_its_nodes(const std::string& text, const char* inside, const std::string& becomes) {
  const Graph g = parse_graph("<ir_version: 8, opset_import: [\"\" : 17]>\ng " + text);
  CAPTURE(text);
  const Links links(g);
  const NodeId middle = links.consumers(*g.find_value(inside))[0].node;
  auto group = integer_group(g, links, middle);
  if (!group) group = moved_codes(g, links, middle);
  REQUIRE(group);
  CHECK(group->node.op == becomes);
  Maker m(8);
  Feeds feeds;
  for (const ValueId v : g.inputs) feeds[v] = m.codes(g[v].type.dtype, g[v].type.shape);
  const OnKernel integers(kernel::reference);
  for (const int count : {1, 3}) {
    Threads threads(count, &integers);
    const Executor executor(g, Reading::reference, threads);
    const Tensor whole = executor.run(feeds)[0];
    Feeds more = feeds;
    const ValueId wanted[] = {*g.find_value(inside)};
    more[wanted[0]] = executor.run(feeds, wanted)[0];
    CHECK(executor.run(more)[0].same_bytes(whole));
  }
}

}  // namespace

TEST_CASE("operators of single elements run on codes") {
  for (const char* type : {"uint8", "int8"}) {
    for (const std::string shape : {"[3, 5]", "[40, 33]"}) {
      const std::string t = std::string(type) + shape;
      const std::string constants = " <float s = {0.03}, " + std::string(type) + " z = {7}, float s2 = {0.011}, " +
                                    type + " z2 = {3}, float s3 = {0.025}, " + type +
                                    " z3 = {90}> { u = DequantizeLinear(a, s, z) ";
      const std::string two =
          "(" + t + " a, " + t + " b) => (" + t + " y)" + constants + "v = DequantizeLinear(b, s2, z2) ";
      as_its_nodes(two + "w = Add(u, v) y = QuantizeLinear(w, s3, z3) }", "u", "QLinearAdd");
      as_its_nodes(two + "w = Mul(u, v) y = QuantizeLinear(w, s3, z3) }", "u", "QLinearMul");
      const std::string one = "(" + t + " a) => (" + t + " y)" + constants;
      as_its_nodes(one + "w = LeakyRelu<alpha = 0.1>(u) y = QuantizeLinear(w, s3, z3) }", "u", "QLinearLeakyRelu");
      as_its_nodes(one + "w = Sigmoid(u) y = QuantizeLinear(w, s2, z2) }", "u", "QLinearSigmoid");
    }
  }
  as_its_nodes(  // spread over an axis
      "(uint8[3, 5] a, uint8[5] b) => (uint8[3, 5] y) <float s = {0.03}, uint8 z = {7}> {"
      " u = DequantizeLinear(a, s, z) v = DequantizeLinear(b, s, z) w = Add(u, v) y = QuantizeLinear(w, s, z) }",
      "u", "QLinearAdd");
}

TEST_CASE("codes move as codes where their meaning stays") {
  const auto moves = [](const std::string& out, const std::string& node, const std::string& becomes,
                        const std::string& behind = "s, z") {
    as_its_nodes(
        "(uint8[1, 4, 6, 6] a, uint8[1, 4, 6, 6] b) => (uint8" + out +
            " y) <float s = {0.03}, uint8 z = {7}, int64[2] to = {4, 36}, int64[1] zero = {0}, int64[1] two = {2}>"
            " { u = DequantizeLinear(a, s, z) v = DequantizeLinear(b, s, z) w = " +
            node + " y = QuantizeLinear(w, " + behind + ") }",
        "u", becomes);
  };
  moves("[4, 36]", "Reshape(u, to)", "Reshape");
  moves("[1, 6, 6, 4]", "Transpose<perm = [0, 2, 3, 1]>(u)", "Transpose");
  moves("[1, 4, 3, 3]", "MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 0]>(u)", "MaxPool");
  moves("[1, 8, 6, 6]", "Concat<axis = 1>(u, v)", "Concat");
  moves("[1, 4, 2, 6]", "Slice(u, zero, two, two)", "Slice");
}

TEST_CASE("codes whose meaning changes do not move as codes") {
  const Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (uint8[2, 3] a, uint8[2, 3] b) => (uint8[3, 2] y, uint8[4, 3] c, uint8[2, 3] n)
<float s = {0.03}, uint8 z = {7}, float s2 = {0.04}, uint8 z2 = {8}>
{
  u = DequantizeLinear(a, s, z)
  v = DequantizeLinear(b, s2, z)
  t = Transpose(u)
  y = QuantizeLinear(t, s, z2)
  j = Concat<axis = 0>(u, v)
  c = QuantizeLinear(j, s, z)
  m = Neg(u)
  n = QuantizeLinear(m, s, z)
})");
  const Links links(g);
  for (const char* v : {"t", "j", "m"}) CHECK(!moved_codes(g, links, links.producer(*g.find_value(v))));
}

}  // namespace qtool

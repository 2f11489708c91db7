// SPDX-License-Identifier: Apache-2.0
#include "formats/latency.h"

#include <doctest/doctest.h>

#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "formats/number/number.h"
#include "formats/target.h"

namespace qtool {
namespace {

Ability ability(std::string_view op, Role role) {
  Ability row;
  row.op = op;
  row.role = role;
  return row;
}

// Rates that make every part of a sum visible in the digits of the result.
Target made_up_target() {
  Target t;
  t.abilities = {ability("Conv", Role::product), ability("MatMul", Role::product), ability("Add", Role::arithmetic)};
  t.costs = {
      {.kernel = "Conv", .precision = Precision::floating, .call = 1e6, .mac = 1, .lanes = 16},
      {.kernel = "Conv",
       .precision = Precision::integer,
       .call = 2e6,
       .mac = .5,
       .ragged = 10,
       .lanes = 16,
       .depth = 64},
      {.kernel = "Conv depthwise ragged", .precision = Precision::floating, .call = 7},
      {.kernel = "MatMul", .precision = Precision::floating, .mac = 2, .out = 100},
      {.kernel = "MatMul", .precision = Precision::dynamic, .mac = 3},
      {.kernel = "Relu", .precision = Precision::floating, .call = 11},
      {.kernel = "QuantizeLinear", .precision = Precision::integer, .call = 3, .out = 1},
      {.kernel = "DequantizeLinear", .precision = Precision::integer, .call = 5, .out = 1},
  };
  return t;
}

Quant eight_bits(bool dynamic = false) {
  QuantSpec spec;
  spec.format = &number::uint8;
  spec.dynamic = dynamic;
  return std::make_shared<const QuantSpec>(spec);
}

/// The graph of a body, its input `w` turned into a constant.
Graph with_weight(const std::string& body) {
  Graph g = parse_graph("<ir_version: 8, opset_import: [\"\" : 17]> g " + body);
  const ValueId w = g.inputs.back();
  g[w].data = Tensor(DType::f32, g[w].type.shape);
  g.inputs.pop_back();
  return g;
}

Graph conv_relu() {
  Graph g = with_weight("(float[1,2,6,6] x, float[3,2,3,3] w) => (float[1,3,4,4] y) { c = Conv(x, w) \n y = Relu(c) }");
  const Type type = g[g.outputs[0].value].type;
  for (const ValueId v : g.values()) {
    if (g[v].name == "c") g[v].type = type;
  }
  return g;
}

NodeId first(const Graph& g) { return g.order().front(); }

TEST_CASE("latency: a float graph costs the same read either way, an activation behind Conv nothing") {
  Graph g = conv_relu();
  const Latency l = estimate_latency(g, made_up_target());
  // 16 positions, 3 channels rounded up to 16 lanes, 18 products.
  CHECK(l.in_float == doctest::Approx(1e6 + 16 * 16 * 18));
  CHECK(l.as_decided == doctest::Approx(l.in_float));
  CHECK(l.nodes.empty());
}

TEST_CASE("latency: an integer kernel pays for rounding to tiles, and for conversions at its borders") {
  Graph g = conv_relu();
  Node& conv = g[first(g)];
  conv.inputs[0].quant = conv.inputs[1].quant = eight_bits();
  g.outputs[0].quant = eight_bits();
  const Latency l = estimate_latency(g, made_up_target());
  REQUIRE(l.nodes.size() == 1);
  CHECK(l.nodes[0].precision == Precision::integer);
  CHECK(l.nodes[0].as_decided == doctest::Approx(2e6 + 16 * 16 * 64 * .5 + 10 * 16));
  // The 72 elements of x become codes; the 48 of y, codes behind the absorbed Relu, become floats.
  CHECK(l.conversions == doctest::Approx(3 + 72 + 5 + 48));
  CHECK(l.as_decided == doctest::Approx(l.nodes[0].as_decided + l.conversions));
  REQUIRE(l.borders.size() == 2);
  CHECK(l.borders[0].into == std::vector<NodeId>{first(g)});
  CHECK(l.borders[1].from == first(g));
  CHECK(l.borders[1].float_readers == 1);
}

TEST_CASE("latency: activations quantized while it runs need no conversions; open extents count as one") {
  Graph g = with_weight("(float[N,4] x, float[4,8] w) => (float[N,8] y) { y = MatMul(x, w) }");
  Node& product = g[first(g)];
  product.inputs[0].quant = eight_bits(true);
  product.inputs[1].quant = eight_bits();
  const Latency l = estimate_latency(g, made_up_target());
  CHECK(l.in_float == doctest::Approx(2 * 32 + 100 * 8));
  CHECK(l.as_decided == doctest::Approx(3 * 32));
  CHECK(l.conversions == 0);
}

TEST_CASE("latency: depthwise kernels are classes of their own, and a target without rates says nothing") {
  const Graph g =
      with_weight("(float[1,3,6,6] x, float[3,1,3,3] w) => (float[1,3,4,4] y) { y = Conv<group = 3>(x, w) }");
  CHECK(estimate_latency(g, made_up_target()).in_float == doctest::Approx(7));
  CHECK(estimate_latency(g, Target{}).in_float == 0);
}

}  // namespace
}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "formats/ir/quant.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// number-formats.md section 6: x_i = (((37 i + 11) mod 64) - 32) / 16, x_5 times 4.
std::vector<float> known_vector() {
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>((37 * i + 11) % 64 - 32) / 16.0F;
  x[5] *= 4;
  return x;
}

/// MatMul of x by a weight of `shape` with `spec` on it.
Graph product(const Shape& shape, const std::vector<float>& w, const QuantSpec& spec, DType dtype = DType::f32) {
  Graph g = graph_of("g (float[1, 4] x) => (float[1, 4] y) < float[1] w = {1.0} > { y = MatMul (x, w) }");
  if (dtype == DType::f16) g = in_half(g);
  Value& value = g[*g.find_value("w")];
  value.data = from_f32(Tensor::of<float>(shape, w), dtype);
  value.type.shape = shape;
  g[g.nodes()[0]].inputs[1].quant = std::make_shared<QuantSpec>(spec);
  return g;
}

QuantSpec spec_of(const NumberFormat& format, Grain grain, bool symmetric, bool narrow = false) {
  QuantSpec spec;
  spec.format = &format;
  spec.grain = grain;
  spec.symmetric = symmetric;
  spec.narrow = narrow;
  return spec;
}

const QuantSpec& rounded(Graph& g, const Knobs& knobs = {}) {
  g = PassBench().run("round_nearest", g, knobs);
  return *g[g.nodes()[0]].inputs[1].quant;
}

double squared_error(const Graph& g) {
  const Use& use = g[g.nodes()[0]].inputs[1];
  const Tensor x = to_f32(g[use.value].data);
  double sum = 0;
  for (const double e : squared_errors(x, to_f32(fake_quantize(x, *use.quant)), use.quant->grain)) sum += e;
  return sum;
}

constexpr Grain groups_of_32{Grain::Kind::groups, 0, 32, 0};

}  // namespace

TEST_CASE("round_nearest: number-formats 2: asymmetric 4 bit, group 32") {
  Graph g = product({32, 1}, known_vector(), spec_of(number::uint4, groups_of_32, false));
  const QuantSpec& spec = rounded(g);
  CHECK(spec.scale.read<float>()[0] == 0.5875F);
  CHECK(spec.zero_point.read<std::int32_t>()[0] == 12);
  const std::vector<std::uint8_t> codes = {10, 14, 11, 15, 12, 0,  13, 10, 14, 11, 15, 12, 9,  13, 10, 14,
                                           11, 9,  13, 10, 14, 11, 15, 12, 9,  13, 10, 14, 11, 15, 12, 9};
  const auto got = spec.codes.read<std::uint8_t>();
  CHECK(std::vector<std::uint8_t>(got.begin(), got.end()) == codes);
  CHECK(squared_error(g) == doctest::Approx(0.69921875).epsilon(1e-6));
}

TEST_CASE("round_nearest: number-formats 2: symmetric narrow 4 bit, ties to even") {
  Graph g = product({32, 1}, known_vector(), spec_of(number::int4, groups_of_32, true, true));
  CHECK(rounded(g).scale.read<float>()[0] == 1);
  CHECK(squared_error(g) == doctest::Approx(2.625).epsilon(1e-6));
}

TEST_CASE("round_nearest: a column of zeros gets scale 1") {
  Graph g = product({2, 2}, {0, 3, 0, -1.5F}, spec_of(number::int8, {Grain::Kind::axis, 1, 0, 0}, true, true));
  const auto scale = rounded(g).scale.read<float>();
  CHECK(scale[0] == 1);
  CHECK(scale[1] == 3.0F / 127);
}

TEST_CASE("round_nearest: the clip search never does worse than the whole range") {
  std::vector<float> w;
  const Rng rng(3);
  for (std::uint64_t i = 0; i < 512; ++i) w.push_back(static_cast<float>(rng.normal(i)));
  w[7] = 9;
  for (const bool symmetric : {true, false}) {
    const QuantSpec spec =
        spec_of(symmetric ? number::int4 : number::uint4, {Grain::Kind::groups, 0, 64, 0}, symmetric);
    Graph plain = product({128, 4}, w, spec), searched = plain;
    rounded(plain);
    rounded(searched, {{"clip", "mse"}});
    CHECK(squared_error(searched) < 0.97 * squared_error(plain));
  }
}

TEST_CASE("round_nearest: half precision models get scales that half precision holds, before codes are made") {
  Graph g =
      product({2, 2}, {1, 3, 2, -1.5F}, spec_of(number::int8, {Grain::Kind::axis, 1, 0, 0}, true, true), DType::f16);
  const QuantSpec& spec = rounded(g);
  for (const float s : spec.scale.read<float>())
    CHECK(to_f32(from_f32(Tensor::scalar(s), DType::f16)).read<float>()[0] == s);
  CHECK(spec.second_scale.empty());
  Graph wide =
      product({2, 2}, {1, 3, 2, -1.5F}, spec_of(number::int8, {Grain::Kind::axis, 1, 0, 0}, true, true), DType::f16);
  CHECK(rounded(wide, {{"scale_format", "f32"}}).scale.read<float>()[1] == 3.0F / 127);
}

TEST_CASE("round_nearest: scales and codes that are there already stay") {
  QuantSpec spec = spec_of(number::int8, {}, true);
  spec.scale = Tensor::scalar(0.5F);
  Graph g = product({2, 1}, {1, 2}, spec);
  CHECK(rounded(g).codes.read<std::int8_t>()[1] == 4);
  spec.codes = Tensor::of<std::int8_t>({2, 1}, {9, 9});
  Graph chosen = product({2, 1}, {1, 2}, spec);
  CHECK(rounded(chosen).codes.read<std::int8_t>()[1] == 9);
}

TEST_CASE("round_nearest: activations and float nodes are left alone") {
  Graph g = product({4, 1}, {1, 2, 3, 4}, spec_of(number::int8, {}, true));
  g[g.nodes()[0]].inputs[0].quant = std::make_shared<QuantSpec>(spec_of(number::uint8, {}, false));
  const Graph after = PassBench().run("round_nearest", g);
  CHECK(after[after.nodes()[0]].inputs[0].quant->scale.empty());
  CHECK_FALSE(after[after.nodes()[0]].inputs[1].quant->codes.empty());
  Graph none = g;
  none[none.nodes()[0]].inputs[1].quant = nullptr;
  CHECK_FALSE(PassBench().run("round_nearest", none)[none.nodes()[0]].inputs[1].quant);
}

TEST_CASE("round_nearest: NaN and infinity are refused with tensor, node and element") {
  Graph g = product({2, 2}, {1, 2, std::nanf(""), 4}, spec_of(number::int8, {}, true));
  g[g.nodes()[0]].name = "fc1";
  const std::string message = message_of(Code::input, [&] { rounded(g); });
  CHECK(contains(message, "weight \"w\" of node \"fc1\" holds NaN at element 2"));
}

TEST_CASE("round_nearest: two uses of one tensor under one decision share it") {
  Graph g = graph_of(
      "g (float[1, 2] x) => (float[1, 2] y, float[1, 2] z) < float[2, 2] w = {1.0, 2.0, 3.0, 4.0} > "
      "{ y = MatMul (x, w) z = MatMul (x, w) }");
  const Quant shared = std::make_shared<QuantSpec>(spec_of(number::int8, {}, true));
  for (const NodeId id : g.nodes()) g[id].inputs[1].quant = shared;
  g = PassBench().run("round_nearest", g);
  CHECK(g[g.nodes()[0]].inputs[1].quant == g[g.nodes()[1]].inputs[1].quant);
  CHECK(g[g.nodes()[0]].inputs[1].quant != shared);
}

TEST_CASE("round_nearest: a bias beyond int32 enlarges the scale of its channel") {
  // onnx-quantized.md section 3, Conventions: |b| / (s_x s_w) <= 2^31 - 1.
  Graph g = graph_of(
      "g (float[1, 2] x) => (float[1, 2] y) < float[2, 2] w = {1.0, 0.00000001, 1.0, 0.00000001}, "
      "float[2] b = {1.0, 100.0} > { y = Gemm (x, w, b) }");
  Node& node = g[g.nodes()[0]];
  QuantSpec x = spec_of(number::uint8, {}, false);
  x.scale = Tensor::scalar(0.01F);
  x.zero_point = Tensor::scalar(std::int32_t{0});
  QuantSpec bias = spec_of(number::int16, {Grain::Kind::axis, 0, 0, 0}, true);
  bias.is_bias = true;
  node.inputs[0].quant = std::make_shared<QuantSpec>(x);
  node.inputs[1].quant = std::make_shared<QuantSpec>(spec_of(number::int8, {Grain::Kind::axis, 1, 0, 0}, true, true));
  node.inputs[2].quant = std::make_shared<QuantSpec>(bias);
  PassBench bench;
  g = bench.run("round_nearest", g);
  const QuantSpec& w = *g[g.nodes()[0]].inputs[1].quant;
  const auto scale = w.scale.read<float>();
  CHECK(scale[0] == 1.0F / 127);
  CHECK(100.0F / (0.01F * scale[1]) <= 2147483647.0F);
  CHECK(w.codes.read<std::int8_t>()[1] == 0);
  CHECK(bench.count("change") == 1);
}

// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "backends/backend.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "formats/number/number.h"

using namespace qtool;

namespace {

std::string_view objection(const char* op, const Shape& input, const Shape& weight, std::int64_t group = 1) {
  Node node;
  node.op = op;
  node.attrs.set("group", group);
  static const Target target = find_backend("tensorrt")->target();
  return target.find(node, Role::product)->unfit(node, input, weight);
}

}  // namespace

TEST_CASE("onnx-quantized 5: products that TensorRT runs faster in float") {
  CHECK(objection("Conv", {1, 3, 32, 32}, {16, 3, 3, 3}) != "");
  CHECK(objection("Conv", {1, 16, 32, 32}, {16, 16, 3, 3}) == "");
  CHECK(objection("Conv", {1, 8, 32, 32}, {8, 8, 3, 3}) == "");  // square, channels in eights
  CHECK(objection("Conv", {1, 8, 32, 32}, {8, 8, 3, 1}) != "");
  CHECK(objection("Conv", {1, 32, 8, 8}, {32, 1, 3, 3}, 32) == "");
  CHECK(objection("Conv", {1, 8, 8, 8}, {8, 1, 3, 3}, 8) != "");  // the exception is for one group
  CHECK(objection("MatMul", {4, 64}, {64, 1}) != "");
  CHECK(objection("MatMul", {1, 64}, {64, 32}) != "");
  CHECK(objection("MatMul", {8, 1, 64}, {64, 32}) == "");  // eight rows of one weight
  CHECK(objection("MatMul", {8, 1, 64}, {8, 64, 32}) != "");
  CHECK(objection("MatMul", {-1, 64}, {64, 32}) == "");
}

TEST_CASE("onnx-quantized 5: TensorRT takes 4-bit codes with an even last extent") {
  Node node;
  node.op = "MatMul";
  const Target target = find_backend("tensorrt")->target();
  const Ability* row = target.find(node, Role::weight_only);
  REQUIRE(row != nullptr);
  CHECK(row->unfit(node, {4, 64}, {64, 13}) != "");
  CHECK(row->unfit(node, {4, 64}, {64, 14}) == "");
}

TEST_CASE("tensorrt: weights in groups are written as int4 blocks of standard operators") {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 13]>
    g (float[4,64] x, float[64,2] w) => (float[4,2] y) { y = MatMul (x, w) })");
  const ValueId w = g.inputs.back();
  g.inputs.pop_back();
  g[w].data = Tensor(DType::f32, {64, 2});
  for (float& v : g[w].data.write<float>()) v = 0.5F;
  QuantSpec spec;
  spec.format = &number::int4;
  spec.grain = {Grain::Kind::groups, 0, 32, 0};
  g[g.order().front()].inputs[1].quant = std::make_shared<const QuantSpec>(spec);

  const BackendDef* def = find_backend("tensorrt");
  REQUIRE(def != nullptr);
  Journal journal;
  const Graph written = def->make()->lower(g, def->target(), journal);
  REQUIRE(written.order().size() == 2);
  const Node& read = written[written.order().front()];
  CHECK(read.op == "DequantizeLinear");
  CHECK(read.attrs.get("block_size", std::int64_t{0}) == 32);
  CHECK(read.attrs.get("axis", std::int64_t{-1}) == 0);
  CHECK(written[read.inputs[0].value].data.dtype() == DType::i4);
  CHECK(written[read.inputs[1].value].data.shape() == Shape{2, 2});
  CHECK(written.opset() == 21);
}

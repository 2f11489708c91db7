// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "backends/backend.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "formats/number/number.h"

using namespace qtool;

TEST_CASE("ort-cuda: weights in groups become MatMulNBits with float activations") {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 13]>
    g (float[1,32] x, float[32,2] w) => (float[1,2] y) { y = MatMul (x, w) })");
  const ValueId w = g.inputs.back();
  g.inputs.pop_back();
  g[w].data = Tensor(DType::f32, {32, 2});
  for (float& v : g[w].data.write<float>()) v = 0.5F;
  QuantSpec spec;
  spec.format = &number::int4;
  spec.grain = {Grain::Kind::groups, 0, 32, 0};
  g[g.order().front()].inputs[1].quant = std::make_shared<const QuantSpec>(spec);

  const BackendDef* def = find_backend("ort-cuda");
  REQUIRE(def != nullptr);
  Journal journal;
  const Graph written = def->make()->lower(g, def->target(), journal);
  REQUIRE(written.order().size() == 1);
  const Node& node = written[written.order().front()];
  CHECK(node.op == "MatMulNBits");
  CHECK(node.attrs.get("bits", std::int64_t{0}) == 4);
  CHECK(node.attrs.get("accuracy_level", std::int64_t{0}) == 1);  // float activations
  CHECK(written.opset() == 17);
}

TEST_CASE("ort-cuda: no kernel on codes, and the methods that would need one are refused with the reason") {
  const Target t = find_backend("ort-cuda")->target();
  Node conv;
  conv.op = "Conv";
  CHECK_FALSE(t.accepts(conv, Role::product, "uint8", "int8"));
  REQUIRE(t.refused_methods.size() == 2);
  CHECK(t.refused_methods[0].first == "static");
  CHECK(t.refused_methods[0].second.find("fuses no int8 kernels") != std::string_view::npos);
}

// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/verify.h"

#include <doctest/doctest.h>

#include <functional>
#include <limits>

#include "formats/base/error.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"

using namespace qtool;

namespace {

Graph sample() {
  return parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (bool b, float[2,4] x) => (float[2,3] y) < float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12} > {
  t = MatMul (x, w)
  y = If (b) < then_branch = p () => (float[2,3] p) { p = Relu (t) },
               else_branch = q () => (float[2,3] q) { q = Neg (t) } >
})");
}

/// What verify says after `edit`; empty: nothing.
std::string complaint(const std::function<void(Graph&)>& edit) {
  Graph graph = sample();
  edit(graph);
  try {
    verify(graph);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    return e.what();
  }
  return {};
}

bool says(const std::function<void(Graph&)>& edit, const char* text) {
  const std::string what = complaint(edit);
  CAPTURE(what);
  const bool found = what.find(text) != std::string::npos;
  CHECK(found);
  return found;
}

std::shared_ptr<QuantSpec> spec_of(const char* format, Grain::Kind kind, Shape shape, float scale) {
  auto spec = std::make_shared<QuantSpec>();
  spec->format = find_number(format);
  spec->grain.kind = kind;
  spec->grain.axis = 1;
  spec->scale = Tensor(DType::f32, std::move(shape));
  for (float& s : spec->scale.write<float>()) s = scale;
  return spec;
}

}  // namespace

TEST_CASE("verify: a sound graph passes") {
  CHECK(complaint([](Graph&) {}).empty());
}

TEST_CASE("verify: names, uses and producers") {
  says([](Graph& g) { g[*g.find_value("t")].name = "x"; }, "two values");
  says([](Graph& g) { g[*g.find_value("t")].name.clear(); }, "no name");
  says([](Graph& g) { g.erase(g.nodes()[0]); }, "reads \"t\", which nothing provides");
  says([](Graph& g) { g[g.nodes()[0]].outputs.push_back(*g.find_value("y")); }, "provided already");
  says([](Graph& g) { g[g.nodes()[0]].outputs.push_back(*g.find_value("w")); }, "constant \"w\"");
  says([](Graph& g) { g[g.nodes()[0]].outputs.push_back(*g.find_value("x")); }, "provided already");
  says([](Graph& g) { g[g.nodes()[0]].inputs[0].value = *g.find_value("y"); }, "cycle");
  says([](Graph& g) { g.outputs[0].value = ValueId::none; }, "no value");
  says([](Graph& g) { g.inputs.push_back(g.inputs[0]); }, "listed twice");
  says(
      [](Graph& g) {
        g[g.nodes()[0]].inputs.pop_back();
        g.erase(*g.find_value("w"));
        g[g.nodes()[0]].inputs.push_back({static_cast<ValueId>(g.value_slots() + 3), nullptr});
      },
      "was removed");
}

TEST_CASE("verify: constants agree with what is declared") {
  says([](Graph& g) { g[*g.find_value("w")].type.dtype = DType::f16; }, "declared f16");
  says([](Graph& g) { g[*g.find_value("w")].type.shape = {3, 4}; }, "declared [3, 4]");
  CHECK(complaint([](Graph& g) { g[*g.find_value("w")].type.shape = {-1, 3}; }).empty());
}

TEST_CASE("verify: captures match bodies") {
  says([](Graph& g) { g[g.nodes()[1]].captured.clear(); }, "captures a value that its node lacks");
  says([](Graph& g) { g[*g.find_value("t")].name = "p"; }, "hides the outer value");
  // Sibling bodies may use one name.
  CHECK(complaint([](Graph& g) {
          Node& node = g[g.nodes()[1]];
          Graph body = *node.attrs.graph("else_branch");
          body[*body.find_value("q")].name = "p";
          node.attrs.set("else_branch", std::shared_ptr<const Graph>(std::make_shared<Graph>(body)));
        }).empty());
}

TEST_CASE("verify: quant specs are well-formed") {
  const auto on_weight = [](std::shared_ptr<QuantSpec> spec) {
    return [spec](Graph& g) { g[g.nodes()[0]].inputs[1].quant = spec; };
  };
  CHECK(complaint(on_weight(spec_of("int8", Grain::Kind::axis, {3}, 0.5F))).empty());
  CHECK(complaint(on_weight(spec_of("int8", Grain::Kind::tensor, {}, 0.5F))).empty());
  says(on_weight(spec_of("int8", Grain::Kind::axis, {4}, 0.5F)), "needs [3]");
  says(on_weight(spec_of("int8", Grain::Kind::tensor, {}, 0.0F)), "not positive and finite");
  says(on_weight(spec_of("int8", Grain::Kind::tensor, {}, std::numeric_limits<float>::infinity())), "not positive");
  says(on_weight(std::make_shared<QuantSpec>()), "no number format");
  auto beyond = spec_of("int8", Grain::Kind::axis, {3}, 0.5F);
  beyond->grain.axis = 2;
  says(on_weight(beyond), "an axis that the value lacks");
  auto zero_point = spec_of("int8", Grain::Kind::axis, {3}, 0.5F);
  zero_point->zero_point = Tensor(DType::i32, {2});
  says(on_weight(zero_point), "zero points");
}

// SPDX-License-Identifier: Apache-2.0
// Bodies of control flow, what they capture, and local functions.
#include <doctest/doctest.h>

#include "formats/file/headers.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "tests/formats/onnx_build.h"

using namespace qtool;
using namespace qtool::test;

namespace {

const char* const nested = R"(<ir_version: 8, opset_import: ["" : 17]>
g (bool b, float[2] x) => (float[2] y)
< float[2] w = {1.0, 2.0} >
{
  h = Neg (x)
  y = If (b) <
    then_branch = outer () => (float[2] p) {
      q = Add (h, w)
      p = If (b) <
        then_branch = inner () => (float[2] r) { s = Mul (q, w) r = Add (s, x) },
        else_branch = inner2 () => (float[2] u) { u = Identity (x) }
      >
    },
    else_branch = other () => (float[2] v) { v = Abs (h) }
  >
}
)";

const Graph& body_of(const Node& node, const char* name) { return *node.attrs.graph(name); }

}  // namespace

TEST_CASE("onnx: outer values that bodies use are captured, level by level") {
  const Graph graph = parse_graph(nested);
  const Node& outer_if = graph[graph.nodes()[1]];
  std::vector<std::string> captured;
  for (const Use& use : outer_if.captured) captured.push_back(graph[use.value].name);
  CHECK(captured == std::vector<std::string>{"h", "w", "b", "x"});
  const Graph& then_branch = body_of(outer_if, "then_branch");
  CHECK(then_branch.captures.size() == 4);
  const Node& inner_if = then_branch[then_branch.nodes()[1]];
  captured.clear();
  for (const Use& use : inner_if.captured) captured.push_back(then_branch[use.value].name);
  CHECK(captured == std::vector<std::string>{"q", "w", "x"});
  CHECK(then_branch.model == graph.model);

  const auto message = as_message(graph);
  CHECK((write_onnx_bytes(read_message(message)) == message.SerializeAsString()));
}

TEST_CASE("onnx: a captured value is written with the name that it has now") {
  Graph graph = parse_graph(nested);
  graph[*graph.find_value("w")].name = "weight";
  Value other;
  other.name = "x2";
  other.type = graph[graph.inputs[1]].type;
  const ValueId x2 = graph.add_value(other);
  Node copy;
  copy.op = "Identity";
  copy.inputs = {{graph.inputs[1], nullptr}};
  copy.outputs = {x2};
  const ValueId x = graph.inputs[1];
  graph.replace_uses(x, x2);
  graph.add_node(copy);
  verify(graph);
  const Graph again = read_message(as_message(graph));
  const std::string text = print_graph(again);
  CHECK(text.find("Add (h, weight)") != std::string::npos);
  CHECK(text.find("Mul (q, weight)") != std::string::npos);
  CHECK(text.find("Add (s, x2)") != std::string::npos);
  CHECK(text.find("u = Identity (x2)") != std::string::npos);
}

TEST_CASE("onnx: a body may return an outer value, and may have weights of its own") {
  auto model = small_model();
  auto* graph = model.mutable_graph();
  graph->clear_node();
  set_info(graph->add_input(), "b", 9, {});
  auto* node = add_node(graph, "If", {"b"}, {"y"});
  const auto branch = [&](const char* name) {
    auto* attr = node->add_attribute();
    attr->set_name(name);
    attr->set_type(onnx::AttributeProto::GRAPH);
    attr->mutable_g()->set_name(name);
    return attr->mutable_g();
  };
  branch("then_branch")->add_output()->set_name("x");
  auto* other = branch("else_branch");
  add_raw(other, "k", 1, {2}, std::string(8, '\0'));
  add_node(other, "Add", {"x", "k"}, {"z"});
  other->add_output()->set_name("z");
  const Graph read = read_message(model);
  CHECK((write_onnx_bytes(read) == model.SerializeAsString()));
  const Graph& body = body_of(read[NodeId{0}], "then_branch");
  CHECK(body.outputs[0].value == body.captures[0].inner);
}

TEST_CASE("onnx: bodies too deep are refused") {
  auto model = small_model();
  auto* graph = model.mutable_graph();
  graph->clear_node();
  for (int depth = 0; depth < 30; ++depth) {
    auto* node = add_node(graph, "If", {"x"}, {"v" + std::to_string(depth)});
    auto* attr = node->add_attribute();
    attr->set_name("then_branch");
    attr->set_type(onnx::AttributeProto::GRAPH);
    graph = attr->mutable_g();
    graph->set_name("g");
  }
  CHECK(refusal(model).find("nests more than") != std::string::npos);
}

TEST_CASE("onnx: local functions survive, newer parts included") {
  auto model = small_model();
  auto* call = model.mutable_graph()->mutable_node(0);
  call->set_op_type("Leaky");
  call->set_domain("local");
  import_domain(model, "local");
  auto* f = model.add_functions();
  f->set_name("Leaky");
  f->set_domain("local");
  f->set_doc_string("doc");
  f->add_input("a");
  f->add_output("c");
  f->add_attribute("must");
  f->add_opset_import()->set_version(17);
  auto* node = f->add_node();
  node->set_op_type("LeakyRelu");
  node->add_input("a");
  node->add_output("c");
  auto* attr = node->add_attribute();
  attr->set_name("alpha");
  attr->set_ref_attr_name("slope");
  attr->set_type(onnx::AttributeProto::FLOAT);
  onnx::AttributeProto slope;
  slope.set_name("slope");
  slope.set_type(onnx::AttributeProto::FLOAT);
  slope.set_f(0.5F);
  f->mutable_unknown_fields()->AddLengthDelimited(11, slope.SerializeAsString());  // attribute_proto
  f->mutable_unknown_fields()->AddLengthDelimited(12, "\x0a\x01z");                // value_info
  f->mutable_unknown_fields()->AddLengthDelimited(13, "fast");                     // overload
  const Graph graph = read_message(model);
  CHECK((write_onnx_bytes(graph) == model.SerializeAsString()));
  const Function& function = graph.model->functions.at(0);
  CHECK(function.overload == "fast");
  CHECK(std::get<float>(function.defaults.at(0).value) == 0.5F);
  const Node& leaky = (*function.body)[NodeId{0}];
  CHECK(std::get<AttrRef>(leaky.attrs.all[0].value).name == "slope");
  CHECK(function.body->opset() == 17);

  *model.add_functions() = *f;
  CHECK(refusal(model).find("defined twice") != std::string::npos);
}

TEST_CASE("onnx: functions that call themselves are refused") {
  auto model = small_model();
  const auto add = [&](const char* name, const char* callee) {
    auto* f = model.add_functions();
    f->set_name(name);
    f->set_domain("local");
    import_domain(*f, "local");
    f->add_input("a");
    f->add_output("c");
    auto* node = f->add_node();
    node->set_op_type(callee);
    node->set_domain("local");
    node->add_input("a");
    node->add_output("c");
  };
  add("A", "B");
  add("B", "C");
  CHECK(refusal(model).empty());
  add("C", "A");
  CHECK(refusal(model).find("calls itself") != std::string::npos);
}

TEST_CASE("onnx: large weights of bodies are written") {
  Graph graph = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (bool b) => (float[n] y)
{
  y = If (b) <
    then_branch = one () => (float[n] p) <float[1] w = {1.0}> { p = Abs (w) },
    else_branch = other () => (float[n] q) <float[1] v = {2.0}> { q = Neg (v) }
  >
}
)");
  constexpr std::int64_t many = 100000;  // more than what lies beside a message from which elements are kept apart
  Node& node = graph[graph.nodes()[0]];
  Graph body = body_of(node, "then_branch");
  Tensor weight(DType::f32, {many});
  for (std::size_t i = 0; i < many; ++i) weight.write<float>()[i] = static_cast<float>(i);
  body[*body.find_value("w")].data = weight;
  node.attrs.set("then_branch", std::make_shared<const Graph>(body));
  const std::string bytes = write_onnx_bytes(graph);
  const Graph back = read_onnx_bytes(std::as_bytes(std::span(bytes)), "back");
  const Graph& read = body_of(back[back.nodes()[0]], "then_branch");
  CHECK(read[*read.find_value("w")].data.same_bytes(weight));
  CHECK(written_bytes(graph, "model.onnx") == bytes.size());
}

// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "tests/formats/onnx_build.h"

using namespace qtool;
using namespace qtool::test;

namespace {

onnx::FunctionProto* add_function(onnx::ModelProto& model, const char* name, const std::vector<std::string>& inputs,
                                  const std::vector<std::string>& outputs, int opset = 17) {
  auto* f = model.add_functions();
  f->set_name(name);
  f->set_domain("local");
  for (const auto& i : inputs) f->add_input(i);
  for (const auto& o : outputs) f->add_output(o);
  f->add_opset_import()->set_version(opset);
  import_domain(*f, "local");
  return f;
}

onnx::NodeProto* add_node_to(onnx::FunctionProto* f, const char* op, const std::vector<std::string>& inputs,
                             const std::vector<std::string>& outputs, const char* domain = "") {
  auto* node = f->add_node();
  node->set_op_type(op);
  if (*domain != '\0') node->set_domain(domain);
  for (const auto& i : inputs) node->add_input(i);
  for (const auto& o : outputs) node->add_output(o);
  return node;
}

void refer(onnx::NodeProto* node, const char* name, const char* outer, onnx::AttributeProto::AttributeType type) {
  auto* attr = node->add_attribute();
  attr->set_name(name);
  attr->set_ref_attr_name(outer);
  attr->set_type(type);
}

onnx::ModelProto calling(const char* op, const std::vector<std::string>& inputs,
                         const std::vector<std::string>& outputs) {
  auto model = small_model();
  import_domain(model, "local");
  auto* graph = model.mutable_graph();
  graph->clear_node();
  auto* call = test::add_node(graph, op, inputs, outputs);
  call->set_domain("local");
  call->set_name("call");
  return model;
}

std::string inlined(const onnx::ModelProto& model) {
  const Graph graph = inline_functions(read_message(model));
  verify(graph);
  CHECK(graph.model->functions.empty());
  const std::string text = print_graph(graph);
  return text.substr(text.rfind("{\n") + 2);
}

}  // namespace

TEST_CASE("inline_functions: calls within calls, attributes handed through and defaulted") {
  auto model = calling("Outer", {"x"}, {"y"});
  auto* alpha = model.mutable_graph()->mutable_node(0)->add_attribute();
  alpha->set_name("slope");
  alpha->set_type(onnx::AttributeProto::FLOAT);
  alpha->set_f(0.25F);
  auto* outer = add_function(model, "Outer", {"a"}, {"c"});
  auto* first = add_node_to(outer, "Inner", {"a"}, {"b"}, "local");
  refer(first, "alpha", "slope", onnx::AttributeProto::FLOAT);
  auto* second = add_node_to(outer, "Inner", {"b"}, {"c"}, "local");
  refer(second, "alpha", "not_given", onnx::AttributeProto::FLOAT);
  auto* inner = add_function(model, "Inner", {"a"}, {"c"});
  refer(add_node_to(inner, "LeakyRelu", {"a"}, {"b"}), "alpha", "alpha", onnx::AttributeProto::FLOAT);
  add_node_to(inner, "Neg", {"b"}, {"c"});
  onnx::AttributeProto fallback;
  fallback.set_name("alpha");
  fallback.set_type(onnx::AttributeProto::FLOAT);
  fallback.set_f(0.5F);
  inner->mutable_unknown_fields()->AddLengthDelimited(11, fallback.SerializeAsString());
  const std::string text = inlined(model);
  CHECK(text.find("LeakyRelu <alpha = 0.25> (x)") != std::string::npos);
  CHECK(text.find("LeakyRelu <alpha = 0.5>") != std::string::npos);
  CHECK(text.find("y = Neg") != std::string::npos);
  CHECK(text.find("local") == std::string::npos);
}

TEST_CASE("inline_functions: an input that is returned gets a copy, one left out stays out") {
  auto model = calling("Pass", {"x"}, {"y"});
  auto* f = add_function(model, "Pass", {"a", "b"}, {"a", "c"});
  add_node_to(f, "Clip", {"a", "b"}, {"c"});
  const std::string text = inlined(model);
  CHECK(text.find("y = Identity (x)") != std::string::npos);
  CHECK(text.find("Clip (x, )") != std::string::npos);
}

TEST_CASE("inline_functions: bodies inside functions get names of their own and keep their captures") {
  auto model = calling("Choose", {"x"}, {"m"});
  auto* call = model.mutable_graph()->add_node();
  *call = model.graph().node(0);
  call->set_input(0, "m");
  call->set_output(0, "y");
  auto* f = add_function(model, "Choose", {"a"}, {"c"});
  add_node_to(f, "Neg", {"a"}, {"n"});
  auto* cond = add_node_to(f, "Constant", {}, {"cond"})->add_attribute();
  cond->set_name("value");
  cond->set_type(onnx::AttributeProto::TENSOR);
  cond->mutable_t()->set_data_type(9);
  cond->mutable_t()->add_int32_data(1);
  auto* branch = add_node_to(f, "If", {"cond"}, {"c"});
  for (const char* name : {"then_branch", "else_branch"}) {
    auto* attr = branch->add_attribute();
    attr->set_name(name);
    attr->set_type(onnx::AttributeProto::GRAPH);
    attr->mutable_g()->set_name(name);
    auto* leaky = test::add_node(attr->mutable_g(), "LeakyRelu", {"n"}, {std::string(name) + "_out"});
    refer(leaky, "alpha", "slope", onnx::AttributeProto::FLOAT);
    attr->mutable_g()->add_output()->set_name(std::string(name) + "_out");
  }
  const Graph graph = inline_functions(read_message(model));
  verify(graph);
  const Graph again = read_message(as_message(graph));
  CHECK(graph.nodes().size() == 6);
  CHECK(print_graph(again).find("@slope") == std::string::npos);
}

TEST_CASE("inline_functions: a function of another operator set is converted, other domains must agree") {
  auto model = calling("Sum", {"x"}, {"y"});
  auto* f = add_function(model, "Sum", {"a"}, {"c"}, 12);
  auto* axes = add_node_to(f, "ReduceSum", {"a"}, {"c"})->add_attribute();
  axes->set_name("axes");
  axes->set_type(onnx::AttributeProto::INTS);
  axes->add_ints(0);
  CHECK(inlined(model).find("ReduceSum (x, ") != std::string::npos);
  auto* other = model.mutable_functions(0)->add_opset_import();
  other->set_domain("org.example");
  other->set_version(2);
  auto* imported = model.add_opset_import();
  imported->set_domain("org.example");
  imported->set_version(1);
  CHECK_THROWS_AS(inline_functions(read_message(model)), Error);
}

TEST_CASE("inline_functions: functions that double at every level are stopped") {
  auto model = calling("F0", {"x"}, {"y"});
  for (int i = 0; i < 40; ++i) {
    auto* f = add_function(model, ("F" + std::to_string(i)).c_str(), {"a"}, {"c"});
    const std::string next = "F" + std::to_string(i + 1);
    const bool last = i == 39;
    add_node_to(f, last ? "Neg" : next.c_str(), {"a"}, {"b"}, last ? "" : "local");
    add_node_to(f, last ? "Neg" : next.c_str(), {"b"}, {"c"}, last ? "" : "local");
  }
  CHECK_THROWS_WITH_AS(inline_functions(read_message(model)), doctest::Contains("too many nodes"), Error);
}

// SPDX-License-Identifier: Apache-2.0
// What the graph does not model survives; what a pass changed is written anew.
#include <doctest/doctest.h>

#include "formats/ir/tensor.h"
#include "tests/formats/onnx_build.h"

using namespace qtool;
using namespace qtool::test;

namespace {

void check_lossless(const onnx::ModelProto& model) {
  CHECK((write_onnx_bytes(read_message(model)) == model.SerializeAsString()));
}

}  // namespace

TEST_CASE("onnx: doc strings, metadata, annotations and training info survive") {
  auto model = small_model();
  model.set_producer_name("exporter");
  model.set_domain("org.example");
  model.set_model_version(7);
  model.set_doc_string("a model");
  auto* prop = model.add_metadata_props();
  prop->set_key("k");
  prop->set_value("v");
  model.add_training_info()->mutable_algorithm()->set_name("train");
  auto* graph = model.mutable_graph();
  graph->set_doc_string("a graph");
  graph->mutable_node(0)->set_doc_string("trace");
  graph->mutable_node(0)->set_domain("");
  graph->mutable_input(0)->set_doc_string("an input");
  graph->mutable_output(0)->mutable_type()->set_denotation("IMAGE");
  add_raw(graph, "s", 1, {1}, std::string(4, 'a'))->set_doc_string("a scale");
  for (const char* name : {"nobody", "y", "x"}) {  // strays and real ones, in their order
    auto* annotation = graph->add_quantization_annotation();
    annotation->set_tensor_name(name);
    auto* parameter = annotation->add_quant_parameter_tensor_names();
    parameter->set_key("SCALE_TENSOR");
    parameter->set_value("s");
  }
  set_info(graph->add_value_info(), "y", 1, {2});
  set_info(graph->add_value_info(), "gone", 1, {2});
  set_info(graph->add_value_info(), "x", 1, {2});
  check_lossless(model);
}

TEST_CASE("onnx: fields newer than the packaged schema survive") {
  auto model = small_model();
  auto* graph = model.mutable_graph();
  auto* node = graph->mutable_node(0);
  node->mutable_unknown_fields()->AddLengthDelimited(8, "variant");         // overload
  node->mutable_unknown_fields()->AddLengthDelimited(9, entry("a", "b"));   // metadata_props
  node->mutable_unknown_fields()->AddLengthDelimited(10, entry("c", "d"));  // device_configurations
  graph->mutable_unknown_fields()->AddLengthDelimited(16, entry("e", "f"));
  graph->mutable_input(0)->mutable_unknown_fields()->AddLengthDelimited(4, entry("g", "h"));
  add_raw(graph, "w", 1, {1}, std::string(4, 'a'))->mutable_unknown_fields()->AddLengthDelimited(16, entry("i", "j"));
  model.mutable_unknown_fields()->AddLengthDelimited(26, "cluster");
  model.mutable_unknown_fields()->AddVarint(99, 5);
  check_lossless(model);
  CHECK(read_message(model)[NodeId{0}].overload == "variant");
}

TEST_CASE("onnx: attributes of every type survive, newer and untyped ones included") {
  using P = onnx::AttributeProto;
  auto model = small_model();
  auto* node = model.mutable_graph()->mutable_node(0);
  node->set_op_type("Custom");
  node->set_domain("org.example");
  import_domain(model, "org.example");
  const auto add = [&](const char* name, P::AttributeType type) {
    auto* a = node->add_attribute();
    a->set_name(name);
    a->set_type(type);
    return a;
  };
  add("f", P::FLOAT)->set_f(0.5F);
  add("i", P::INT)->set_i(-3);
  add("i_left_out", P::INT);
  add("s", P::STRING)->set_s(std::string("a\0b", 3));
  add("fs", P::FLOATS)->add_floats(1);
  add("none", P::INTS);
  add("is", P::INTS)->add_ints(4);
  add("ss", P::STRINGS)->add_strings("x");
  auto* t = add("t", P::TENSOR)->mutable_t();
  t->set_name("inner");
  t->set_data_type(1);
  t->add_dims(1);
  t->add_float_data(2);
  auto* st = add("st", P::SPARSE_TENSOR)->mutable_sparse_tensor();
  st->add_dims(3);
  add("tp", P::TYPE_PROTO)->mutable_tp()->mutable_tensor_type()->set_elem_type(1);
  auto* untyped = node->add_attribute();
  untyped->set_name("untyped");
  untyped->add_ints(5);
  auto* newer = node->add_attribute();
  newer->set_name("newer");
  newer->mutable_unknown_fields()->AddVarint(20, 27);
  newer->mutable_unknown_fields()->AddLengthDelimited(40, "payload");
  add("doc", P::INT)->set_doc_string("documented");
  check_lossless(model);

  const Graph graph = read_message(model);
  const Attrs& attrs = graph[NodeId{0}].attrs;
  CHECK(attrs.get("i_left_out", std::int64_t{9}) == 0);
  CHECK(attrs.get("untyped", std::vector<std::int64_t>{}) == std::vector<std::int64_t>{5});
  CHECK(std::holds_alternative<OpaqueAttr>(attrs.find("newer")->value));
  CHECK(std::holds_alternative<OpaqueAttr>(attrs.find("st")->value));
}

TEST_CASE("onnx: a changed attribute is written, its neighbours stay") {
  auto model = small_model();
  auto* node = model.mutable_graph()->mutable_node(0);
  node->set_op_type("Custom");
  node->set_domain("org.example");
  import_domain(model, "org.example");
  node->set_doc_string("kept");
  for (const char* name : {"a", "b"}) {
    auto* attr = node->add_attribute();
    attr->set_name(name);
    attr->set_doc_string("doc");
    attr->set_type(onnx::AttributeProto::INT);
    attr->set_i(1);
  }
  Graph graph = read_message(model);
  Node& edited = graph[NodeId{0}];
  edited.attrs.set("a", std::vector<float>{1.5F});
  edited.attrs.all[1].value = std::int64_t{2};
  const auto written = as_message(graph).graph().node(0);
  CHECK(written.doc_string() == "kept");
  CHECK(written.attribute(0).type() == onnx::AttributeProto::FLOATS);
  CHECK(!written.attribute(0).has_doc_string());
  CHECK(written.attribute(1).i() == 2);
  CHECK(written.attribute(1).doc_string() == "doc");
}

TEST_CASE("onnx: types, names and values that a pass changed are written as they are now") {
  auto model = small_model();
  auto* graph = model.mutable_graph();
  graph->mutable_output(0)->set_doc_string("doc");
  add_node(graph, "Relu", {"y"}, {"z"});
  add_node(graph, "Relu", {"y"}, {"dead"});
  set_info(graph->add_value_info(), "z", 1, {2});
  set_info(graph->add_value_info(), "dead", 1, {2});
  Graph g = read_message(model);
  const ValueId z = *g.find_value("z"), dead = *g.find_value("dead"), x = *g.find_value("x");
  g[z].name = "renamed";
  g[z].type.dtype = DType::f16;
  g.erase(g.nodes()[2]);
  g.erase(dead);
  g[x].type.shape = {-1};
  g[x].type.symbols = {"batch"};
  Value fresh;
  fresh.name = "fresh";
  fresh.data = Tensor::of<float>({2}, {1, 2});
  g.add_value(std::move(fresh));
  const auto written = as_message(g).graph();
  CHECK(written.node(1).output(0) == "renamed");
  REQUIRE(written.value_info_size() == 1);
  CHECK(written.value_info(0).name() == "renamed");
  CHECK(written.value_info(0).type().tensor_type().elem_type() == onnx::TensorProto::FLOAT16);
  CHECK(written.input(0).type().tensor_type().shape().dim(0).dim_param() == "batch");
  CHECK(written.output(0).doc_string() == "doc");
  REQUIRE(written.initializer_size() == 1);
  CHECK(written.initializer(0).raw_data().size() == 8);
}

TEST_CASE("onnx: symbolic, unknown and missing shapes survive") {
  auto model = small_model();
  auto* graph = model.mutable_graph();
  auto* shape = graph->mutable_input(0)->mutable_type()->mutable_tensor_type()->mutable_shape();
  shape->add_dim()->set_dim_param("N");
  shape->add_dim();
  shape->add_dim()->set_denotation("CHANNEL");
  shape->add_dim()->set_dim_value(-1);
  shape->add_dim()->set_dim_param("");
  graph->mutable_output(0)->mutable_type()->mutable_tensor_type()->clear_shape();
  auto* sequence = graph->add_input();
  sequence->set_name("list");
  sequence->mutable_type()->mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(1);
  graph->add_value_info()->set_name("y");
  check_lossless(model);
  const Graph g = read_message(model);
  CHECK(g[g.inputs[0]].type.shape == Shape{2, -1, -1, -1, -1, -1});
  CHECK(g[g.inputs[0]].type.symbols[1] == "N");
  CHECK(!g[g.outputs[0].value].type.known_rank);
  CHECK(g[g.inputs[1]].type.kind == TypeKind::sequence);
}

TEST_CASE("onnx: initializers that are inputs too stay listed (IR 3)") {
  auto model = small_model();
  model.set_ir_version(3);
  auto* graph = model.mutable_graph();
  graph->mutable_node(0)->set_op_type("Add");
  graph->mutable_node(0)->add_input("w");
  set_info(graph->add_input(), "w", 1, {2});
  add_raw(graph, "w", 1, {2}, std::string(8, '\0'));
  check_lossless(model);
  const Graph g = read_message(model);
  CHECK(g.inputs.size() == 2);
  CHECK(g.is_constant(g.inputs[1]));
}

TEST_CASE("onnx: optional inputs and outputs that are left out survive") {
  auto model = small_model();
  auto* node = add_node(model.mutable_graph(), "LSTM", {"x", "x", "x", "", "", "x", ""}, {"", "h", ""});
  (void)node;
  check_lossless(model);
  const Graph g = read_message(model);
  CHECK(g[NodeId{1}].inputs[3].value == ValueId::none);
  CHECK(g[NodeId{1}].outputs[0] == ValueId::none);
}

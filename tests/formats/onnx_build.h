// SPDX-License-Identifier: Apache-2.0
// Building ONNX messages for tests, field by field, newer fields than the packaged schema knows included.
#pragma once

#include <onnx/onnx_pb.h>

#include <span>
#include <string>

#include "formats/base/error.h"
#include "formats/file/reader.h"

namespace qtool::test {

inline Graph read_message(const onnx::ModelProto& model, const std::filesystem::path& folder = {}) {
  const std::string bytes = model.SerializeAsString();
  return read_onnx_bytes(std::as_bytes(std::span(bytes.data(), bytes.size())), "m.onnx", folder);
}

inline onnx::ModelProto as_message(const Graph& graph) {
  onnx::ModelProto model;
  model.ParseFromString(write_onnx_bytes(graph));
  return model;
}

/// The sentence of the Error(Code::input) that reading throws; empty: it was read.
inline std::string refusal(const onnx::ModelProto& model, const std::filesystem::path& folder = {}) {
  try {
    read_message(model, folder);
  } catch (const Error& e) {
    return e.code() == Code::input ? e.what() : "another code: " + std::string(e.what());
  }
  return {};
}

inline void set_info(onnx::ValueInfoProto* info, const std::string& name, int type, const std::vector<int>& dims) {
  info->set_name(name);
  auto* tensor = info->mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(type);
  tensor->mutable_shape();
  for (const int d : dims) tensor->mutable_shape()->add_dim()->set_dim_value(d);
}

inline onnx::NodeProto* add_node(onnx::GraphProto* graph, const std::string& op, const std::vector<std::string>& inputs,
                                 const std::vector<std::string>& outputs) {
  auto* node = graph->add_node();
  node->set_op_type(op);
  for (const auto& name : inputs) node->add_input(name);
  for (const auto& name : outputs) node->add_output(name);
  return node;
}

/// Version 1 of an operator set, for a model or a local function.
template <class Proto>
void import_domain(Proto& proto, const std::string& domain) {
  auto* imported = proto.add_opset_import();
  imported->set_domain(domain);
  imported->set_version(1);
}

/// x: float[2] -> Relu -> y
inline onnx::ModelProto small_model() {
  onnx::ModelProto model;
  model.set_ir_version(8);
  model.add_opset_import()->set_version(17);
  auto* graph = model.mutable_graph();
  graph->set_name("g");
  add_node(graph, "Relu", {"x"}, {"y"});
  set_info(graph->add_input(), "x", 1, {2});
  set_info(graph->add_output(), "y", 1, {2});
  return model;
}

inline onnx::TensorProto* add_raw(onnx::GraphProto* graph, const std::string& name, int type,
                                  const std::vector<std::int64_t>& dims, const std::string& bytes) {
  auto* tensor = graph->add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(type);
  for (const auto d : dims) tensor->add_dims(d);
  tensor->set_raw_data(bytes);
  return tensor;
}

/// A StringStringEntryProto, as newer fields hold it.
inline std::string entry(const std::string& key, const std::string& value) {
  onnx::StringStringEntryProto e;
  e.set_key(key);
  e.set_value(value);
  return e.SerializeAsString();
}

}  // namespace qtool::test

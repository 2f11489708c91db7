// SPDX-License-Identifier: Apache-2.0
// ModelProto to Graph. Names become ids, outer-scope names become captures; what the graph does not model goes
// into extras (onnx_internal.h). Every byte is hostile.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"
#include "formats/file/reader.h"
#include "formats/ir/verify.h"

namespace qtool {
namespace onnx_file {
namespace {

using onnx::AttributeProto;

constexpr std::int64_t first_ir = 3, last_ir = 14;
constexpr std::int64_t first_opset = 7, last_opset = 28;

std::string plain_domain(const std::string& domain) { return domain == "ai.onnx" ? std::string() : domain; }

ExtrasPtr keep_message(std::string message) {
  auto extras = std::make_shared<MessageExtras>();
  extras->message = std::move(message);
  return extras;
}

/// A node while it is read, with the places of what its bodies capture.
struct Owner {
  Node& node;
  std::map<ValueId, std::uint32_t> places;
};

/// A graph while it is read, and the way out to the graphs around it.
struct Scope {
  Graph& graph;
  std::unordered_map<std::string, ValueId> names;
  Scope* outer = nullptr;
  Owner* owner = nullptr;  // the node of `outer` that owns this body
  int depth = 0;
};

class Reader {
 public:
  Reader(std::string source, const std::filesystem::path& folder, std::optional<Headers> headers,
         std::optional<ModelFile> file)
      : source_(std::move(source)), files_(source_, folder, headers, std::move(file)) {}
  Graph read(onnx::ModelProto& model);

 private:
  [[noreturn]] void refuse(const std::string& why, std::string hint = {}) const {
    throw Error(Code::input, source_ + ": " + why, std::move(hint));
  }
  std::map<std::string, std::int64_t> read_opsets(
      const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& list, const std::string& whose) const;
  Function read_function(onnx::FunctionProto& proto);
  void read_graph(onnx::GraphProto& proto, Scope& scope);
  void read_initializers(onnx::GraphProto& proto, Scope& scope);
  void read_infos(onnx::GraphProto& proto, Scope& scope, GraphExtras& rest);
  void declare_outputs(const google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, Scope& scope) const;
  void read_nodes(google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, Scope& scope);
  Node read_node(onnx::NodeProto& proto, Scope& scope);
  Attr read_attr(AttributeProto& proto, Scope* scope, Owner* owner, const std::string& where);
  std::shared_ptr<const Graph> read_body(onnx::GraphProto& proto, Scope& outer, Owner& owner, const std::string& where);
  ValueId declare(Scope& scope, const std::string& name, const std::string& what) const;
  std::optional<ValueId> resolve(Scope& scope, const std::string& name) const;
  ValueExtras& extras_of(const Graph& graph, ValueId v);

  std::string source_;
  ExternalFiles files_;
  std::shared_ptr<const ModelInfo> model_;
  // Extras of values are gathered while a graph is read; a stack, since bodies are read inside their graphs.
  std::map<std::pair<const Graph*, ValueId>, std::shared_ptr<ValueExtras>> gathered_;
};

ValueExtras& Reader::extras_of(const Graph& graph, ValueId v) {
  auto& slot = gathered_[{&graph, v}];
  if (!slot) slot = std::make_shared<ValueExtras>();
  return *slot;
}

std::map<std::string, std::int64_t> Reader::read_opsets(
    const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& list, const std::string& whose) const {
  std::map<std::string, std::int64_t> opsets;
  for (const auto& entry : list) {
    const auto [at, fresh] = opsets.emplace(plain_domain(entry.domain()), entry.version());
    if (!fresh && at->second != entry.version()) {
      refuse(whose + " imports the operator set \"" + entry.domain() + "\" in two versions");
    }
  }
  const auto standard = opsets.find("");
  if (standard != opsets.end() && (standard->second < first_opset || standard->second > last_opset)) {
    refuse(whose + " uses operator set " + std::to_string(standard->second) + ", qtool reads " +
               std::to_string(first_opset) + " to " + std::to_string(last_opset),
           "convert the model with onnx.version_converter or export it again");
  }
  return opsets;
}

ValueId Reader::declare(Scope& scope, const std::string& name, const std::string& what) const {
  if (name.empty()) refuse(what + " has no name");
  const auto [at, fresh] = scope.names.emplace(name, ValueId::none);
  if (!fresh) refuse(what + " \"" + name + "\" has the name of another value of graph \"" + scope.graph.name + "\"");
  Value value;
  value.name = name;
  at->second = scope.graph.add_value(std::move(value));
  return at->second;
}

std::optional<ValueId> Reader::resolve(Scope& scope, const std::string& name) const {
  const auto found = scope.names.find(name);
  if (found != scope.names.end()) return found->second;
  if (scope.outer == nullptr) return std::nullopt;
  const auto outer = resolve(*scope.outer, name);
  if (!outer) return std::nullopt;
  auto& captured = scope.owner->node.captured;
  const auto [place, fresh] = scope.owner->places.emplace(*outer, static_cast<std::uint32_t>(captured.size()));
  if (fresh) captured.push_back({*outer, nullptr});
  Value value;
  value.name = name;
  value.type = scope.outer->graph[*outer].type;
  const ValueId inner = scope.graph.add_value(std::move(value));
  scope.graph.captures.push_back({inner, place->second});
  scope.names.emplace(name, inner);
  return inner;
}

void Reader::read_initializers(onnx::GraphProto& proto, Scope& scope) {
  for (auto& tensor : *proto.mutable_initializer()) {
    const std::string name = tensor.name();
    const ValueId v = declare(scope, name, "an initializer");
    TensorForm form;
    Tensor data = take_tensor(tensor, files_, source_ + ": initializer \"" + name + "\"", form);
    tensor.clear_name();
    form.rest = tensor.SerializeAsString();
    if (!form.plain()) extras_of(scope.graph, v).tensor = std::move(form);
    scope.graph[v].data = std::move(data);
  }
  for (auto& tensor : *proto.mutable_sparse_initializer()) {
    const std::string name = tensor.values().name();
    const ValueId v = declare(scope, name, "a sparse initializer");
    SparseForm form;
    scope.graph[v].data = take_sparse(tensor, files_, source_ + ": sparse initializer \"" + name + "\"", form);
    extras_of(scope.graph, v).sparse = std::move(form);
  }
  for (const auto& [name, v] : scope.names) {
    Value& value = scope.graph[v];
    value.type.dtype = value.data.dtype();
    value.type.shape = value.data.shape();
    value.type.known_dtype = value.type.known_rank = true;
  }
}

/// Text to keep for an entry: empty when the plain entry of `type` is the same message.
std::string kept_info(const onnx::ValueInfoProto& info, const Type& type) {
  onnx::ValueInfoProto plain;
  plain.set_name(info.name());
  write_type(type, plain);
  std::string text = info.SerializeAsString();
  return text == plain.SerializeAsString() ? std::string() : text;
}

void Reader::read_infos(onnx::GraphProto& proto, Scope& scope, GraphExtras& rest) {
  Graph& graph = scope.graph;
  const auto learn = [&](ValueId v, const onnx::ValueInfoProto& info) {
    Value& value = graph[v];
    const Type type = read_type(info);
    if (!value.data.empty()) {
      if (type.known_dtype && type.dtype != value.data.dtype()) {
        refuse("initializer \"" + value.name + "\" is " + std::string(name_of(value.data.dtype())) +
               " and is declared as " + std::string(name_of(type.dtype)));
      }
      return;
    }
    if (!value.type.known_dtype && !value.type.known_rank && value.type.kind == TypeKind::tensor) value.type = type;
  };
  std::set<ValueId> seen;
  for (const auto& info : proto.input()) {
    const auto known = scope.names.find(info.name());
    const ValueId v = known != scope.names.end() && graph.is_constant(known->second)
                          ? known->second
                          : declare(scope, info.name(), "input");
    if (!seen.insert(v).second) refuse("input \"" + info.name() + "\" is listed twice");
    graph.inputs.push_back(v);
    learn(v, info);
  }
  declare_outputs(proto.node(), scope);
  for (const auto& info : proto.output()) {
    const auto known = scope.names.find(info.name());
    if (known != scope.names.end()) learn(known->second, info);
  }
  seen.clear();
  std::int64_t place = 0;
  for (const auto& info : proto.value_info()) {
    const auto known = scope.names.find(info.name());
    if (known == scope.names.end() || !seen.insert(known->second).second) {
      rest.infos.emplace_back(place++, info.SerializeAsString());
      continue;
    }
    learn(known->second, info);
    ValueExtras& extras = extras_of(graph, known->second);
    extras.info = kept_info(info, graph[known->second].type);
    extras.info_place = place++;
  }
  place = 0;
  seen.clear();
  for (const auto& annotation : proto.quantization_annotation()) {
    const auto known = scope.names.find(annotation.tensor_name());
    const bool complete =
        std::all_of(annotation.quant_parameter_tensor_names().begin(), annotation.quant_parameter_tensor_names().end(),
                    [&](const auto& entry) { return scope.names.contains(entry.value()); });
    if (known == scope.names.end() || !complete || !seen.insert(known->second).second) {
      rest.annotations.emplace_back(place++, annotation.SerializeAsString());
      continue;
    }
    ValueExtras& extras = extras_of(graph, known->second);
    extras.annotation = annotation.SerializeAsString();
    extras.annotation_place = place++;
  }
  for (const auto& info : proto.input()) {
    const ValueId v = scope.names.at(info.name());
    if (auto text = kept_info(info, graph[v].type); !text.empty()) extras_of(graph, v).input = std::move(text);
  }
}

void Reader::declare_outputs(const google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, Scope& scope) const {
  for (const auto& node : nodes) {
    for (const std::string& output : node.output()) {
      if (!output.empty()) declare(scope, output, "output of node \"" + node.name() + "\" (" + node.op_type() + "):");
    }
  }
}

void Reader::read_nodes(google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, Scope& scope) {
  for (auto& proto : nodes) scope.graph.add_node(read_node(proto, scope));
}

Node Reader::read_node(onnx::NodeProto& proto, Scope& scope) {
  Node node;
  node.name = proto.name();
  node.op = proto.op_type();
  node.domain = plain_domain(proto.domain());
  node.overload = unknown_string(proto.unknown_fields(), 8);
  const std::string where = "node \"" + node.name + "\" (" + node.op + ")";
  if (node.op.empty()) refuse(where + " has no operator");
  if (!scope.graph.model->opsets.contains(node.domain)) {
    refuse(where + " is an operator of " + (node.domain.empty() ? "ai.onnx" : "\"" + node.domain + "\"") +
           ", of which no version is imported");
  }
  for (const std::string& name : proto.input()) {
    Use use;
    if (!name.empty()) {
      const auto v = resolve(scope, name);
      if (!v) refuse(where + " reads \"" + name + "\", which nothing provides");
      use.value = *v;
    }
    node.inputs.push_back(use);
  }
  for (const std::string& name : proto.output()) {
    node.outputs.push_back(name.empty() ? ValueId::none : scope.names.at(name));
  }
  std::set<std::string> names;
  Owner owner{node, {}};
  for (auto& attr : *proto.mutable_attribute()) {
    if (!names.insert(attr.name()).second) refuse(where + " has the attribute \"" + attr.name() + "\" twice");
    node.attrs.all.push_back(read_attr(attr, &scope, &owner, where));
  }
  proto.clear_input();
  proto.clear_output();
  proto.clear_attribute();
  onnx::NodeProto plain;
  if (!node.name.empty()) plain.set_name(node.name);
  plain.set_op_type(node.op);
  if (!node.domain.empty()) plain.set_domain(node.domain);
  if (!node.overload.empty()) set_unknown_string(*plain.mutable_unknown_fields(), 8, node.overload);
  std::string text = proto.SerializeAsString();
  if (text != plain.SerializeAsString()) node.extras = keep_message(std::move(text));
  return node;
}

/// The type of an attribute that does not say it (optional before IR 2): that of its only filled field.
AttributeProto::AttributeType guessed_type(const AttributeProto& p) {
  if (p.has_f()) return AttributeProto::FLOAT;
  if (p.has_i()) return AttributeProto::INT;
  if (p.has_s()) return AttributeProto::STRING;
  if (p.has_t()) return AttributeProto::TENSOR;
  if (p.has_g()) return AttributeProto::GRAPH;
  if (p.floats_size() > 0) return AttributeProto::FLOATS;
  if (p.ints_size() > 0) return AttributeProto::INTS;
  if (p.strings_size() > 0) return AttributeProto::STRINGS;
  if (p.tensors_size() > 0) return AttributeProto::TENSORS;
  if (p.graphs_size() > 0) return AttributeProto::GRAPHS;
  return AttributeProto::UNDEFINED;
}

Attr Reader::read_attr(AttributeProto& p, Scope* scope, Owner* owner, const std::string& where) {
  Attr attr;
  attr.name = p.name();
  const std::string here = where + ": attribute \"" + attr.name + "\"";
  if (attr.name.empty()) refuse(where + " has an attribute without name");
  AttributeProto plain;
  plain.set_name(attr.name);
  std::vector<TensorForm> forms;
  const auto take = [&](onnx::TensorProto& tensor) {
    TensorForm& form = forms.emplace_back();
    Tensor data = take_tensor(tensor, files_, source_ + ": " + here, form);
    form.rest = tensor.SerializeAsString();
    return data;
  };
  const auto body = [&](onnx::GraphProto& graph) {
    if (scope == nullptr) refuse(here + " is a graph where none can be");
    return read_body(graph, *scope, *owner, here);
  };
  // A type number beyond the enum of this schema reads back as an unknown field.
  bool newer = false;
  for (int i = 0; i < p.unknown_fields().field_count(); ++i) {
    newer = newer || p.unknown_fields().field(i).number() == AttributeProto::kTypeFieldNumber;
  }
  const auto type = p.has_type() ? p.type() : newer ? AttributeProto::UNDEFINED : guessed_type(p);
  if (!p.ref_attr_name().empty()) {
    attr.value = AttrRef{p.ref_attr_name()};
    plain.set_ref_attr_name(p.ref_attr_name());
  } else {
    switch (type) {
      case AttributeProto::FLOAT:
        attr.value = p.f();
        plain.set_f(p.f());
        break;
      case AttributeProto::INT:
        attr.value = std::int64_t{p.i()};
        plain.set_i(p.i());
        break;
      case AttributeProto::STRING:
        attr.value = p.s();
        plain.set_s(p.s());
        break;
      case AttributeProto::FLOATS:
        attr.value = std::vector<float>(p.floats().begin(), p.floats().end());
        *plain.mutable_floats() = p.floats();
        break;
      case AttributeProto::INTS:
        attr.value = std::vector<std::int64_t>(p.ints().begin(), p.ints().end());
        *plain.mutable_ints() = p.ints();
        break;
      case AttributeProto::STRINGS:
        attr.value = std::vector<std::string>(p.strings().begin(), p.strings().end());
        *plain.mutable_strings() = p.strings();
        break;
      case AttributeProto::TENSOR:
        if (!p.has_t()) refuse(here + " is a tensor that is missing");
        attr.value = take(*p.mutable_t());
        break;
      case AttributeProto::TENSORS: {
        std::vector<Tensor> tensors;
        for (auto& t : *p.mutable_tensors()) tensors.push_back(take(t));
        attr.value = std::move(tensors);
        break;
      }
      case AttributeProto::GRAPH:
        if (!p.has_g()) refuse(here + " is a graph that is missing");
        attr.value = body(*p.mutable_g());
        break;
      case AttributeProto::GRAPHS: {
        std::vector<std::shared_ptr<const Graph>> graphs;
        for (auto& g : *p.mutable_graphs()) graphs.push_back(body(g));
        attr.value = std::move(graphs);
        break;
      }
      default: {
        attr.value = OpaqueAttr{};
        auto extras = std::make_shared<AttrExtras>();
        extras->message = p.SerializeAsString();
        attr.extras = std::move(extras);
        return attr;
      }
    }
    if (type == AttributeProto::TENSOR) p.clear_t();
    if (type == AttributeProto::TENSORS) p.clear_tensors();
    if (type == AttributeProto::GRAPH) p.clear_g();
    if (type == AttributeProto::GRAPHS) p.clear_graphs();
    plain.set_type(type);
  }
  std::string text = p.SerializeAsString();
  const bool plain_tensors = std::all_of(forms.begin(), forms.end(), [](const TensorForm& f) { return f.plain(); });
  if (text != plain.SerializeAsString() || !plain_tensors) {
    auto extras = std::make_shared<AttrExtras>();
    extras->message = std::move(text);
    extras->tensors = std::move(forms);
    attr.extras = std::move(extras);
  }
  return attr;
}

std::shared_ptr<const Graph> Reader::read_body(onnx::GraphProto& proto, Scope& outer, Owner& owner,
                                               const std::string& where) {
  if (outer.depth + 1 > max_body_depth)
    refuse(where + " nests more than " + std::to_string(max_body_depth) + " bodies");
  auto graph = std::make_shared<Graph>();
  graph->model = model_;
  Scope scope{*graph, {}, &outer, &owner, outer.depth + 1};
  read_graph(proto, scope);
  return graph;
}

void Reader::read_graph(onnx::GraphProto& proto, Scope& scope) {
  Graph& graph = scope.graph;
  graph.name = proto.name();
  GraphExtras rest;
  read_initializers(proto, scope);
  read_infos(proto, scope, rest);
  read_nodes(*proto.mutable_node(), scope);
  std::set<ValueId> seen;
  for (const auto& info : proto.output()) {
    const auto v = resolve(scope, info.name());
    if (!v) refuse("output \"" + info.name() + "\" of graph \"" + graph.name + "\" is provided by nothing");
    graph.outputs.push_back({*v, nullptr});
    if (!seen.insert(*v).second) continue;
    if (auto text = kept_info(info, graph[*v].type); !text.empty()) extras_of(graph, *v).output = std::move(text);
  }
  for (auto at = gathered_.lower_bound({&graph, ValueId{0}}); at != gathered_.end() && at->first.first == &graph;) {
    at->second->type = graph[at->first.second].type;
    graph[at->first.second].extras = std::move(at->second);
    at = gathered_.erase(at);
  }
  proto.clear_node();
  proto.clear_initializer();
  proto.clear_sparse_initializer();
  proto.clear_input();
  proto.clear_output();
  proto.clear_value_info();
  proto.clear_quantization_annotation();
  onnx::GraphProto plain;
  if (!graph.name.empty()) plain.set_name(graph.name);
  std::string text = proto.SerializeAsString();
  if (text != plain.SerializeAsString()) rest.message = std::move(text);
  if (!rest.message.empty() || !rest.infos.empty() || !rest.annotations.empty()) {
    graph.extras = std::make_shared<GraphExtras>(std::move(rest));
  }
}

Function Reader::read_function(onnx::FunctionProto& proto) {
  constexpr int overload_field = 13, defaults_field = 11;
  Function function;
  function.name = proto.name();
  function.domain = plain_domain(proto.domain());
  function.overload = unknown_string(proto.unknown_fields(), overload_field);
  const std::string where = "function \"" + function.name + "\"";
  if (function.name.empty()) refuse("a local function has no name");
  function.attributes.assign(proto.attribute().begin(), proto.attribute().end());
  function.opsets = read_opsets(proto.opset_import(), where);
  google::protobuf::UnknownFieldSet others;
  for (int i = 0; i < proto.unknown_fields().field_count(); ++i) {
    const auto& field = proto.unknown_fields().field(i);
    if (field.number() != defaults_field) {
      others.AddField(field);
      continue;
    }
    AttributeProto attr;
    if (field.type() != google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED ||
        !attr.ParseFromString(field.length_delimited())) {
      refuse(where + " has a default attribute that cannot be read");
    }
    function.defaults.push_back(read_attr(attr, nullptr, nullptr, where));
  }
  proto.mutable_unknown_fields()->Swap(&others);

  auto info = std::make_shared<ModelInfo>();
  info->ir_version = model_->ir_version;
  info->opsets = function.opsets;
  auto body = std::make_shared<Graph>();
  body->name = function.name;
  body->model = info;
  Scope scope{*body, {}, nullptr, nullptr, 0};
  for (const std::string& name : proto.input()) body->inputs.push_back(declare(scope, name, where + ": input"));
  declare_outputs(proto.node(), scope);
  const auto outside = model_;
  model_ = info;
  read_nodes(*proto.mutable_node(), scope);
  model_ = outside;
  for (const std::string& name : proto.output()) {
    const auto v = resolve(scope, name);
    if (!v) refuse(where + ": nothing provides its output \"" + name + "\"");
    body->outputs.push_back({*v, nullptr});
  }
  function.body = std::move(body);
  proto.clear_input();
  proto.clear_output();
  proto.clear_node();
  function.extras = keep_message(proto.SerializeAsString());
  return function;
}

Graph Reader::read(onnx::ModelProto& proto) {
  if (!proto.has_ir_version() || proto.ir_version() < first_ir || proto.ir_version() > last_ir) {
    refuse("the model has IR version " + std::to_string(proto.ir_version()) + ", qtool reads " +
               std::to_string(first_ir) + " to " + std::to_string(last_ir),
           "export the model with a recent ONNX exporter");
  }
  if (!proto.has_graph()) refuse("the file holds no graph");
  if (proto.opset_import_size() == 0) refuse("the model imports no operator set", "export the model again");
  auto info = std::make_shared<ModelInfo>();
  info->ir_version = proto.ir_version();
  info->opsets = read_opsets(proto.opset_import(), "the model");
  info->producer_name = proto.producer_name();
  info->producer_version = proto.producer_version();
  for (const auto& entry : proto.metadata_props()) info->metadata.emplace_back(entry.key(), entry.value());
  model_ = info;
  for (auto& function : *proto.mutable_functions()) info->functions.push_back(read_function(function));
  proto.clear_functions();
  const std::unique_ptr<onnx::GraphProto> graph_proto(proto.release_graph());
  info->extras = keep_message(proto.SerializeAsString());

  Graph graph;
  graph.model = info;
  Scope scope{graph, {}, nullptr, nullptr, 0};
  read_graph(*graph_proto, scope);
  return graph;
}

/// With the source in front; names out of the file may hold anything, and be of any length.
std::string one_sentence(std::string message, const std::string& source) {
  constexpr std::size_t longest = 600, kept = 280;
  if (!message.starts_with(source)) message = source + ": " + message;
  if (message.size() > longest) message = message.substr(0, kept) + " ... " + message.substr(message.size() - kept);
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return message;
}

Graph read_message(onnx::ModelProto& model, const std::string& source, const std::filesystem::path& folder,
                   std::optional<Headers> headers = std::nullopt, std::optional<ModelFile> file = std::nullopt) {
  try {
    Graph graph = Reader(source, folder, headers, std::move(file)).read(model);
    verify(graph);
    return graph;
  } catch (const Error& e) {
    throw Error(e.code(), one_sentence(e.what(), source), e.hint());
  }
}

}  // namespace
}  // namespace onnx_file

Graph read_onnx_bytes(std::span<const std::byte> bytes, const std::string& source,
                      const std::filesystem::path& folder) {
  onnx::ModelProto model;
  onnx_file::parse(bytes, source, model);
  return onnx_file::read_message(model, source, folder);
}

Graph read_onnx(const std::filesystem::path& path, std::size_t least_mapped) {
  onnx::ModelProto model;
  onnx_file::ModelFile file{MappedFile(path), {}};
  file.elements = onnx_file::parse_apart(file.file, least_mapped, path.string(), model);
  return onnx_file::read_message(model, path.string(), path.has_parent_path() ? path.parent_path() : ".", std::nullopt,
                                 std::move(file));
}

Graph read_onnx_headers(const std::filesystem::path& path, const Headers& headers) {
  onnx::ModelProto model;
  onnx_file::parse_headers(MappedFile(path), headers, path.string(), model);
  return onnx_file::read_message(model, path.string(), path.has_parent_path() ? path.parent_path() : ".", headers);
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Graph to ModelProto: skeletons first (onnx_internal.h), what the graph says laid over them. The same graph gives
// the same bytes.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/file/onnx_internal.h"
#include "formats/file/reader.h"
#include "formats/ir/absent.h"

namespace qtool {
namespace onnx_file {
namespace {

using onnx::AttributeProto;
using Names = std::vector<std::string>;  // by value id: what the file calls it

std::string plain_domain(const std::string& domain) { return domain == "ai.onnx" ? std::string() : domain; }

template <class Message>
void lay(const ExtrasPtr& extras, Message& out) {
  if (const auto* kept = extras_as<MessageExtras>(extras)) {
    QTOOL_ENSURE(out.ParseFromString(kept->message), "a kept message can be read again");
  }
}

class Writer {
 public:
  /// `bodies`: for the initializers of bodies, which lie deeper in the message than what is put beside it.
  Writer(Elsewhere elsewhere, Elsewhere bodies) : elsewhere_(std::move(elsewhere)), bodies_(std::move(bodies)) {}
  void put_model(const Graph& graph, onnx::ModelProto& out) const;

 private:
  void put_opsets(const std::map<std::string, std::int64_t>& opsets,
                  google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& out) const;
  void put_function(const Function& function, onnx::FunctionProto& out) const;
  Names names_in(const Graph& graph, const std::vector<std::string>& captured) const;
  void put_graph(const Graph& graph, const std::vector<std::string>& captured, onnx::GraphProto& out) const;
  void put_values(const Graph& graph, const Names& names, onnx::GraphProto& out) const;
  void put_info(const Value& value, const std::string& name, const std::string& kept, onnx::ValueInfoProto& out) const;
  void put_node(const Graph& graph, const Node& node, const Names& names, onnx::NodeProto& out) const;
  void put_attr(const Attr& attr, const Node* node, const Names& names, AttributeProto& out) const;
  void put_body(const Graph& body, const Node* owner, const Names& names, onnx::GraphProto& out) const;

  Elsewhere elsewhere_, bodies_;
};

void Writer::put_opsets(const std::map<std::string, std::int64_t>& opsets,
                        google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& out) const {
  std::set<std::string> present;
  for (int i = 0; i < out.size();) {
    const std::string domain = plain_domain(out.Get(i).domain());
    const auto wanted = opsets.find(domain);
    if (wanted == opsets.end()) {
      out.DeleteSubrange(i, 1);
      continue;
    }
    if (out.Get(i).version() != wanted->second) out.Mutable(i)->set_version(wanted->second);
    present.insert(domain);
    ++i;
  }
  for (const auto& [domain, version] : opsets) {
    if (present.contains(domain)) continue;
    auto* entry = out.Add();
    entry->set_domain(domain);
    entry->set_version(version);
  }
}

void Writer::put_model(const Graph& graph, onnx::ModelProto& out) const {
  QTOOL_ENSURE(graph.model != nullptr, "a graph that is written has a model");
  const ModelInfo& model = *graph.model;
  lay(model.extras, out);
  if (!out.has_ir_version() || out.ir_version() != model.ir_version) out.set_ir_version(model.ir_version);
  if (out.producer_name() != model.producer_name) out.set_producer_name(model.producer_name);
  if (out.producer_version() != model.producer_version) out.set_producer_version(model.producer_version);
  put_opsets(model.opsets, *out.mutable_opset_import());
  const auto same_entry = [](const auto& kept, const auto& now) {
    return kept.key() == now.first && kept.value() == now.second;
  };
  if (!std::equal(out.metadata_props().begin(), out.metadata_props().end(), model.metadata.begin(),
                  model.metadata.end(), same_entry)) {
    out.clear_metadata_props();
    for (const auto& [key, value] : model.metadata) {
      auto* entry = out.add_metadata_props();
      entry->set_key(key);
      entry->set_value(value);
    }
  }
  for (const Function& function : model.functions) put_function(function, *out.add_functions());
  put_graph(graph, {}, *out.mutable_graph());
}

void Writer::put_function(const Function& function, onnx::FunctionProto& out) const {
  constexpr int overload_field = 13, defaults_field = 11;
  lay(function.extras, out);
  if (out.name() != function.name) out.set_name(function.name);
  if (plain_domain(out.domain()) != function.domain) out.set_domain(function.domain);
  if (unknown_string(out.unknown_fields(), overload_field) != function.overload) {
    set_unknown_string(*out.mutable_unknown_fields(), overload_field, function.overload);
  }
  if (!std::equal(out.attribute().begin(), out.attribute().end(), function.attributes.begin(),
                  function.attributes.end())) {
    out.clear_attribute();
    for (const std::string& name : function.attributes) out.add_attribute(name);
  }
  put_opsets(function.opsets, *out.mutable_opset_import());
  const Graph& body = *function.body;
  const Names names = names_in(body, {});
  if (!function.defaults.empty()) {
    google::protobuf::UnknownFieldSet others;
    for (const Attr& attr : function.defaults) {
      AttributeProto proto;
      put_attr(attr, nullptr, names, proto);
      others.AddLengthDelimited(defaults_field, proto.SerializeAsString());
    }
    others.MergeFrom(out.unknown_fields());
    out.mutable_unknown_fields()->Swap(&others);
  }
  for (const ValueId v : body.inputs) out.add_input(names[index(v)]);
  for (const Use& use : body.outputs) out.add_output(names[index(use.value)]);
  for (const NodeId n : body.order()) put_node(body, body[n], names, *out.add_node());
}

Names Writer::names_in(const Graph& graph, const std::vector<std::string>& captured) const {
  Names names(graph.value_slots());
  for (const ValueId v : graph.values()) names[index(v)] = graph[v].name;
  std::set<ValueId> inner;
  std::set<std::string> outer;
  for (const Capture& capture : graph.captures) {
    QTOOL_ENSURE(capture.outer < captured.size(), "a capture names an outer value of its node");
    names[index(capture.inner)] = captured[capture.outer];
    inner.insert(capture.inner);
    outer.insert(captured[capture.outer]);
  }
  for (const ValueId v : graph.values()) {
    QTOOL_ENSURE(inner.contains(v) || !outer.contains(graph[v].name), "no value hides an outer one that is captured");
  }
  return names;
}

void Writer::put_body(const Graph& body, const Node* owner, const Names& names, onnx::GraphProto& out) const {
  std::vector<std::string> captured;
  if (owner != nullptr) {
    for (const Use& use : owner->captured) captured.push_back(names[index(use.value)]);
  }
  Writer(bodies_, bodies_).put_graph(body, captured, out);
}

void Writer::put_info(const Value& value, const std::string& name, const std::string& kept,
                      onnx::ValueInfoProto& out) const {
  if (kept.empty()) {
    out.set_name(name);
    write_type(value.type, out);
    return;
  }
  QTOOL_ENSURE(out.ParseFromString(kept), "a kept message can be read again");
  if (out.name() != name) out.set_name(name);
  const auto* extras = extras_as<ValueExtras>(value.extras);
  if (extras == nullptr || !same_type(extras->type, value.type)) write_type(value.type, out);
}

/// What the graph's own entries and the strays give, in the order of their places.
template <class T>
std::vector<T> in_places(std::vector<std::pair<std::int64_t, T>> entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<T> out;
  for (auto& entry : entries) out.push_back(std::move(entry.second));
  return out;
}

void Writer::put_values(const Graph& graph, const Names& names, onnx::GraphProto& out) const {
  const auto* rest = extras_as<GraphExtras>(graph.extras);
  std::vector<std::pair<std::int64_t, onnx::ValueInfoProto>> infos;
  std::vector<std::pair<std::int64_t, onnx::TensorAnnotation>> annotations;
  std::set<std::string> live;
  for (const ValueId v : graph.values()) live.insert(names[index(v)]);
  if (rest != nullptr) {
    for (const auto& [place, text] : rest->infos) {
      infos.emplace_back(place, onnx::ValueInfoProto()).second.ParseFromString(text);
    }
    for (const auto& [place, text] : rest->annotations) {
      annotations.emplace_back(place, onnx::TensorAnnotation()).second.ParseFromString(text);
    }
  }
  for (const ValueId v : graph.values()) {
    const Value& value = graph[v];
    const std::string& name = names[index(v)];
    const auto* extras = extras_as<ValueExtras>(value.extras);
    if (!value.data.empty()) {
      const bool sparse = extras != nullptr && extras->sparse;
      if (!sparse || !put_sparse(value.data, *extras->sparse, name, *out.add_sparse_initializer())) {
        if (sparse) out.mutable_sparse_initializer()->RemoveLast();
        auto* tensor = out.add_initializer();
        put_tensor(value.data, extras != nullptr && !sparse ? &extras->tensor : nullptr, elsewhere_, *tensor);
        tensor->set_name(name);
      }
    }
    if (extras == nullptr) continue;
    if (extras->info_place >= 0) {
      put_info(value, name, *extras->info, infos.emplace_back(extras->info_place, onnx::ValueInfoProto()).second);
    }
    if (extras->annotation_place >= 0) {
      onnx::TensorAnnotation annotation;
      annotation.ParseFromString(extras->annotation);
      const auto& entries = annotation.quant_parameter_tensor_names();
      // Parameters that a pass removed leave nothing to annotate.
      if (!std::all_of(entries.begin(), entries.end(), [&](const auto& e) { return live.contains(e.value()); }))
        continue;
      if (annotation.tensor_name() != name) annotation.set_tensor_name(name);
      annotations.emplace_back(extras->annotation_place, std::move(annotation));
    }
  }
  for (auto& info : in_places(std::move(infos))) *out.add_value_info() = std::move(info);
  for (auto& annotation : in_places(std::move(annotations))) *out.add_quantization_annotation() = std::move(annotation);
}

void Writer::put_graph(const Graph& graph, const std::vector<std::string>& captured, onnx::GraphProto& out) const {
  if (const auto* rest = extras_as<GraphExtras>(graph.extras)) {
    if (!rest->message.empty()) out.ParseFromString(rest->message);
  }
  if (out.name() != graph.name) out.set_name(graph.name);
  const Names names = names_in(graph, captured);
  for (const NodeId n : graph.order()) put_node(graph, graph[n], names, *out.add_node());
  for (const ValueId v : graph.inputs) {
    const auto* extras = extras_as<ValueExtras>(graph[v].extras);
    put_info(graph[v], names[index(v)], extras && extras->input ? *extras->input : std::string(), *out.add_input());
  }
  for (const Use& use : graph.outputs) {
    const Value& value = graph[use.value];
    const auto* extras = extras_as<ValueExtras>(value.extras);
    put_info(value, names[index(use.value)], extras && extras->output ? *extras->output : std::string(),
             *out.add_output());
  }
  put_values(graph, names, out);
}

void Writer::put_node(const Graph&, const Node& node, const Names& names, onnx::NodeProto& out) const {
  constexpr int overload_field = 8;
  lay(node.extras, out);
  if (out.name() != node.name) out.set_name(node.name);
  if (!out.has_op_type() || out.op_type() != node.op) out.set_op_type(node.op);
  if (plain_domain(out.domain()) != node.domain) out.set_domain(node.domain);
  if (unknown_string(out.unknown_fields(), overload_field) != node.overload) {
    set_unknown_string(*out.mutable_unknown_fields(), overload_field, node.overload);
  }
  for (const Use& use : node.inputs)
    out.add_input(use.value == ValueId::none ? std::string() : names[index(use.value)]);
  for (const ValueId v : node.outputs) out.add_output(v == ValueId::none ? std::string() : names[index(v)]);
  for (const Attr& attr : node.attrs.all) put_attr(attr, &node, names, *out.add_attribute());
}

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

void Writer::put_attr(const Attr& attr, const Node* node, const Names& names, AttributeProto& out) const {
  const auto* extras = extras_as<AttrExtras>(attr.extras);
  if (extras != nullptr) QTOOL_ENSURE(out.ParseFromString(extras->message), "a kept message can be read again");
  const auto form = [&](std::size_t i) -> const TensorForm* {
    return extras != nullptr && i < extras->tensors.size() ? &extras->tensors[i] : nullptr;
  };
  if (out.name() != attr.name || !out.has_name()) out.set_name(attr.name);
  // A type that was left out stays out; a value of another type than the one that was read starts anew.
  const auto type = [&](AttributeProto::AttributeType t) {
    const bool changed = (out.has_type() && out.type() != t) || out.has_ref_attr_name();
    if (changed) {
      out.Clear();
      out.set_name(attr.name);
    }
    if (changed || extras == nullptr) out.set_type(t);
  };
  std::visit(Overloaded{
                 [&](std::int64_t v) {
                   type(AttributeProto::INT);
                   if (extras == nullptr || out.i() != v) out.set_i(v);
                 },
                 [&](float v) {
                   type(AttributeProto::FLOAT);
                   if (extras == nullptr || !same_bits(out.f(), v)) out.set_f(v);
                 },
                 [&](const std::string& v) {
                   type(AttributeProto::STRING);
                   if (extras == nullptr || out.s() != v) out.set_s(v);
                 },
                 [&](const std::vector<std::int64_t>& v) {
                   type(AttributeProto::INTS);
                   out.mutable_ints()->Assign(v.begin(), v.end());
                 },
                 [&](const std::vector<float>& v) {
                   type(AttributeProto::FLOATS);
                   out.mutable_floats()->Assign(v.begin(), v.end());
                 },
                 [&](const std::vector<std::string>& v) {
                   type(AttributeProto::STRINGS);
                   out.mutable_strings()->Assign(v.begin(), v.end());
                 },
                 [&](const Tensor& v) {
                   type(AttributeProto::TENSOR);
                   put_tensor(v, form(0), {}, *out.mutable_t());
                 },
                 [&](const std::vector<Tensor>& v) {
                   type(AttributeProto::TENSORS);
                   for (std::size_t i = 0; i < v.size(); ++i) put_tensor(v[i], form(i), {}, *out.add_tensors());
                 },
                 [&](const std::shared_ptr<const Graph>& v) {
                   type(AttributeProto::GRAPH);
                   put_body(*v, node, names, *out.mutable_g());
                 },
                 [&](const std::vector<std::shared_ptr<const Graph>>& v) {
                   type(AttributeProto::GRAPHS);
                   for (const auto& body : v) put_body(*body, node, names, *out.add_graphs());
                 },
                 [&](const AttrRef& v) {
                   if (out.ref_attr_name() != v.name) out.set_ref_attr_name(v.name);
                 },
                 [](const OpaqueAttr&) {},
             },
             attr.value);
}

/// Bytes of all initializers, bodies included.
std::uint64_t weight_bytes(const Graph& graph) {
  std::uint64_t sum = 0;
  for (const ValueId v : graph.values()) sum += graph[v].data.size_bytes();
  for (const NodeId n : graph.nodes()) {
    for_each_body(graph[n], [&](const Graph& body) { sum += weight_bytes(body); });
  }
  return sum;
}

/// Keeps large tensors beside the message.
Elsewhere beside(Kept& kept) {
  constexpr std::size_t large = std::size_t{64} << 10;
  return [&kept](const Tensor& tensor, Storage storage, onnx::TensorProto& proto) {
    // Absent elements take the room of raw ones, which for floats is that of typed ones too.
    if (!is_absent(tensor) && (tensor.size_bytes() < large || storage == Storage::typed)) return false;
    kept.emplace(&proto, tensor);
    return true;
  };
}

constexpr std::string_view data_suffix = ".data";
constexpr std::size_t data_digits = 16;

}  // namespace
}  // namespace onnx_file

std::string write_onnx_bytes(const Graph& graph) {
  if (onnx_file::weight_bytes(graph) > onnx_file::max_message_bytes) {
    throw Error(Code::no_fit, "the weights take more than 2 GiB, the most that one ONNX message may have",
                "write the model to a file, with its weights in an external data file");
  }
  onnx::ModelProto model;
  onnx_file::Kept kept;
  onnx_file::Writer(onnx_file::beside(kept), {}).put_model(graph, model);
  return onnx_file::write(model, kept);
}

namespace onnx_file {
namespace {

/// Where the weights of a model lie in its data file: each one on a page of its own.
class DataLayout {
 public:
  /// Writes nothing where `file` is null.
  explicit DataLayout(OutputFile* file, Threads* threads = nullptr) : file_(file), threads_(threads) {}

  Elsewhere put() {
    return [this](const Tensor& tensor, Storage, onnx::TensorProto& proto) { return put(tensor, proto); };
  }
  /// The name of the file follows from its contents; every location gets it.
  std::string name_for(const std::filesystem::path& model) {
    const std::string name =
        model.filename().string() + "." + hex(hasher_.finish()).substr(0, data_digits) + std::string(data_suffix);
    for (std::string* location : locations_) *location = name;
    return name;
  }
  std::uint64_t size() const { return size_; }

 private:
  bool put(const Tensor& tensor, onnx::TensorProto& proto) {
    constexpr std::size_t page = 4096;
    static constexpr std::array<std::byte, page> zeros{};
    if (tensor.size_bytes() < min_external_bytes) return false;
    if (size_ % page != 0) append(std::span(zeros).first(page - size_ % page));
    const auto entry = [&](const char* key, const std::string& value) {
      auto* e = proto.add_external_data();
      e->set_key(key);
      e->set_value(value);
      return e->mutable_value();
    };
    locations_.push_back(entry("location", ""));  // known when all is written
    entry("offset", std::to_string(size_));
    entry("length", std::to_string(tensor.size_bytes()));
    proto.set_data_location(onnx::TensorProto::EXTERNAL);
    if (file_ == nullptr) {
      size_ += tensor.size_bytes();
    } else {
      const Tensor* const one = &tensor;
      stream_elements({&one, 1}, threads_, [&](std::size_t, std::span<const std::byte> bytes) { append(bytes); });
    }
    return true;
  }

  void append(std::span<const std::byte> bytes) {
    size_ += bytes.size();
    if (file_ == nullptr) return;
    file_->write(bytes);
    hasher_.bytes(bytes);
  }

  OutputFile* file_;
  Threads* threads_;
  std::uint64_t size_ = 0;
  Hasher hasher_;
  std::vector<std::string*> locations_;
};

/// Whether the weights fit into the message. What else a model holds (names, attributes) is small beside its weights,
/// and bounded anew when serialized.
bool fits_message(const Graph& graph, const OnnxWriteOptions& options) {
  constexpr std::uint64_t room = std::uint64_t{64} << 20;
  return weight_bytes(graph) <= std::min(options.external_above, max_message_bytes - room);
}

}  // namespace
}  // namespace onnx_file

void write_onnx(const Graph& graph, const std::filesystem::path& path, const OnnxWriteOptions& options) {
  onnx::ModelProto model;
  if (onnx_file::fits_message(graph, options)) {
    onnx_file::Kept kept;
    onnx_file::Writer(onnx_file::beside(kept), {}).put_model(graph, model);
    OutputFile file(path);
    onnx_file::write(model, kept, file, options.threads);
    file.publish(options.sync);
    return;
  }
  std::filesystem::path data_path = path;
  data_path += onnx_file::data_suffix;
  OutputFile data(data_path);
  onnx_file::DataLayout layout(&data, options.threads);
  onnx_file::Writer(layout.put(), layout.put()).put_model(graph, model);
  data.rename_target(layout.name_for(path));
  OutputFile file(path);
  onnx_file::write(model, {}, file, nullptr);
  data.publish(options.sync);
  file.publish(options.sync);
}

std::uint64_t written_bytes(const Graph& graph, const std::filesystem::path& path, const OnnxWriteOptions& options) {
  onnx::ModelProto model;
  if (onnx_file::fits_message(graph, options)) {
    onnx_file::Kept kept;
    onnx_file::Writer(onnx_file::beside(kept), {}).put_model(graph, model);
    return onnx_file::message_size(model, kept);
  }
  onnx_file::DataLayout layout(nullptr);
  onnx_file::Writer(layout.put(), layout.put()).put_model(graph, model);
  layout.name_for(path);
  return layout.size() + onnx_file::message_size(model, {});
}

bool is_data_file_of(const std::filesystem::path& model, const std::filesystem::path& file) {
  const std::string begin = model.filename().string() + ".", name = file.filename().string();
  const std::size_t digits = begin.size(), end = digits + onnx_file::data_digits;
  return name.size() == end + onnx_file::data_suffix.size() && name.starts_with(begin) &&
         name.ends_with(onnx_file::data_suffix) &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(digits),
                     name.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace qtool

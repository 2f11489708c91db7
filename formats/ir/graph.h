// SPDX-License-Identifier: Apache-2.0
// Graph: start reading here. A model as a value: nodes (operators), values (tensors that flow, and constants)
// and uses (a value as one consumer sees it). Copies are cheap, since tensors share their bytes.
//
// A graph keeps its float weights. A quantization decision is written next to the data, on the *use* of a
// value (Use::quant), so one graph has two readings: `reference` (float) and `quantized` (as decided).
//
// Ids stay valid for the life of the graph: erasing leaves a hole. Const member functions are thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/ir/tensor.h"

namespace qtool {

struct QuantSpec;                                // formats/ir/quant.h
using Quant = std::shared_ptr<const QuantSpec>;  // null: as stored
class Graph;

enum class NodeId : std::uint32_t { none = 0xffffffff };
enum class ValueId : std::uint32_t { none = 0xffffffff };  // none: an optional input left out

/// Bytes of a file format that qtool does not model (unknown newer fields, doc strings, metadata), owned and
/// understood by formats/file alone. Null: nothing of the kind.
struct Extras;
using ExtrasPtr = std::shared_ptr<const Extras>;

enum class TypeKind : std::uint8_t { tensor, sequence, optional, sparse_tensor, map, opaque };

/// What is known about a value before it is run.
struct Type {
  DType dtype = DType::f32;
  bool known_dtype = false;
  bool known_rank = false;           // false: `shape` means nothing
  Shape shape;                       // -1: symbolic or unknown
  std::vector<std::string> symbols;  // per axis the name of a symbolic extent; may be shorter than shape
  TypeKind kind = TypeKind::tensor;
};

struct Value {
  std::string name;
  Type type;
  Tensor data;  // constants (initializers) only; weights stay float
  ExtrasPtr extras;
};

/// A value as one consumer sees it.
struct Use {
  ValueId value = ValueId::none;
  Quant quant;
};

/// An attribute inside a local function that takes its value from the calling node.
struct AttrRef {
  std::string name;
};
/// An attribute of a type that qtool does not model (sparse tensor, type proto, newer): kept by `extras`.
struct OpaqueAttr {};

struct Attr {
  std::string name;
  std::variant<std::int64_t, float, std::string, Tensor, std::shared_ptr<const Graph>, std::vector<std::int64_t>,
               std::vector<float>, std::vector<std::string>, std::vector<Tensor>,
               std::vector<std::shared_ptr<const Graph>>, AttrRef, OpaqueAttr>
      value;
  ExtrasPtr extras;
};

/// Attributes in file order, looked up by name. get(): the value, or the default when absent;
/// Error(Code::input) when the attribute has another type.
class Attrs {
 public:
  const Attr* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  std::int64_t get(std::string_view name, std::int64_t otherwise) const;
  float get(std::string_view name, float otherwise) const;
  std::string get(std::string_view name, const char* otherwise) const;
  std::vector<std::int64_t> get(std::string_view name, const std::vector<std::int64_t>& otherwise) const;
  std::vector<float> get(std::string_view name, const std::vector<float>& otherwise) const;
  std::vector<std::string> get(std::string_view name, const std::vector<std::string>& otherwise) const;
  Tensor get(std::string_view name, const Tensor& otherwise) const;
  /// Null when absent.
  std::shared_ptr<const Graph> graph(std::string_view name) const;
  /// Replaces (dropping extras) or appends.
  void set(std::string_view name, decltype(Attr::value) value);
  void erase(std::string_view name);

  std::vector<Attr> all;
};

struct Node {
  std::string name, op, domain;  // domain "" is ai.onnx
  std::string overload;          // of a local function; usually empty
  Attrs attrs;
  std::vector<Use> inputs;
  std::vector<ValueId> outputs;  // none: an optional output left out
  /// Values of this graph that bodies among the attributes use (outer-scope capture), each once. A body's
  /// Graph::captures says which of its own values stands for captured[outer].
  std::vector<Use> captured;
  ExtrasPtr extras;
};

/// In a body graph: `inner` stands for value captured[outer] of the node that owns the body.
struct Capture {
  ValueId inner = ValueId::none;
  std::uint32_t outer = 0;
};

/// A local function of the model (ONNX FunctionProto): called by nodes with its domain, name and overload.
struct Function {
  std::string domain, name, overload;
  std::vector<std::string> attributes;         // names that a call must set
  std::vector<Attr> defaults;                  // attributes with a default
  std::map<std::string, std::int64_t> opsets;  // its own imports
  std::shared_ptr<const Graph> body;
  ExtrasPtr extras;
};

/// What belongs to the model file rather than to one graph; on the top-level graph only.
struct ModelInfo {
  std::int64_t ir_version = 8;
  std::map<std::string, std::int64_t> opsets;  // domain to version; "" is ai.onnx
  std::string producer_name, producer_version;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<Function> functions;
  ExtrasPtr extras;
};

class Graph {
 public:
  /// Names need not be unique while a graph is built; verify() asks for it.
  ValueId add_value(Value);
  NodeId add_node(Node);
  /// The node leaves a hole; its outputs stay as values without producer.
  void erase(NodeId);
  /// The value leaves a hole. Requires: nothing uses it.
  void erase(ValueId);
  /// Every use (node inputs, captures, outputs) of `from` becomes a use of `to`, with its quant dropped.
  void replace_uses(ValueId from, ValueId to);

  const Node& operator[](NodeId) const;
  Node& operator[](NodeId);
  const Value& operator[](ValueId) const;
  Value& operator[](ValueId);
  bool alive(NodeId) const;
  bool alive(ValueId) const;
  /// One past the largest id: for tables indexed by id.
  std::size_t node_slots() const { return nodes_.size(); }
  std::size_t value_slots() const { return values_.size(); }

  /// Live ids in order of creation (file order).
  std::vector<NodeId> nodes() const;
  std::vector<ValueId> values() const;
  /// Topological; keeps the order of creation where that is topological already, and puts a later node right
  /// before its first consumer. Error(Code::input) naming a node when the graph has a cycle.
  std::vector<NodeId> order() const;

  std::optional<ValueId> find_value(std::string_view name) const;
  std::optional<NodeId> find_node(std::string_view name) const;
  /// `stem`, or `stem_1`, ... : a name that no value or node here or in a body has.
  std::string fresh_name(std::string_view stem) const;

  bool is_constant(ValueId v) const { return v != ValueId::none && !(*this)[v].data.empty(); }
  std::int64_t opset(std::string_view domain = {}) const;  // 0: not imported

  std::string name;
  std::vector<ValueId> inputs;  // may include constants with a default (IR 3)
  std::vector<Use> outputs;
  std::vector<Capture> captures;           // body graphs only
  std::shared_ptr<const ModelInfo> model;  // shared by bodies
  ExtrasPtr extras;

 private:
  std::vector<std::optional<Node>> nodes_;
  std::vector<std::optional<Value>> values_;
};

/// Where values come from and go to: a snapshot, to be built again after the graph changes.
class Links {
 public:
  /// input >= 0: position in Node::inputs; input < 0: capture -input-1. node none: graph output `input`.
  struct Consumer {
    NodeId node = NodeId::none;
    int input = 0;
  };
  explicit Links(const Graph&);
  /// none: a graph input, a constant, a capture, or nobody.
  NodeId producer(ValueId v) const { return producers_[static_cast<std::size_t>(v)]; }
  std::span<const Consumer> consumers(ValueId v) const { return consumers_[static_cast<std::size_t>(v)]; }

 private:
  std::vector<NodeId> producers_;
  std::vector<std::vector<Consumer>> consumers_;
};

/// Positions in tables indexed by id.
inline std::size_t index(NodeId n) { return static_cast<std::size_t>(n); }
inline std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

/// The use behind a consumer, for reading and for annotating.
const Use& use_at(const Graph&, const Links::Consumer&);
Use& use_at(Graph&, const Links::Consumer&);

/// What a node is called in messages and selectors: its name, or its first output's when it has none.
std::string_view label_of(const Graph&, NodeId);

/// Names of all values and nodes of `graph` and of its bodies, the empty one included.
void collect_names(const Graph& graph, std::set<std::string, std::less<>>& names);

/// Calls f(body) for each Graph among the attributes of `node`.
void for_each_body(const Node& node, const std::function<void(const Graph&)>& f);

}  // namespace qtool

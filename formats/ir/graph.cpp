// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/graph.h"

#include <algorithm>
#include <set>

#include "formats/base/error.h"

namespace qtool {
namespace {

template <class T>
const T* typed(const Attrs& attrs, std::string_view name, const char* wanted) {
  const Attr* attr = attrs.find(name);
  if (attr == nullptr) return nullptr;
  if (const T* value = std::get_if<T>(&attr->value)) return value;
  throw Error(Code::input, "attribute \"" + std::string(name) + "\" should be " + wanted);
}

}  // namespace

const Attr* Attrs::find(std::string_view name) const {
  for (const Attr& attr : all) {
    if (attr.name == name) return &attr;
  }
  return nullptr;
}

std::int64_t Attrs::get(std::string_view name, std::int64_t otherwise) const {
  const auto* v = typed<std::int64_t>(*this, name, "an integer");
  return v ? *v : otherwise;
}
float Attrs::get(std::string_view name, float otherwise) const {
  const auto* v = typed<float>(*this, name, "a float");
  return v ? *v : otherwise;
}
std::string Attrs::get(std::string_view name, const char* otherwise) const {
  const auto* v = typed<std::string>(*this, name, "a string");
  return v ? *v : otherwise;
}
std::vector<std::int64_t> Attrs::get(std::string_view name, const std::vector<std::int64_t>& otherwise) const {
  const auto* v = typed<std::vector<std::int64_t>>(*this, name, "a list of integers");
  return v ? *v : otherwise;
}
std::vector<float> Attrs::get(std::string_view name, const std::vector<float>& otherwise) const {
  const auto* v = typed<std::vector<float>>(*this, name, "a list of floats");
  return v ? *v : otherwise;
}
std::vector<std::string> Attrs::get(std::string_view name, const std::vector<std::string>& otherwise) const {
  const auto* v = typed<std::vector<std::string>>(*this, name, "a list of strings");
  return v ? *v : otherwise;
}
Tensor Attrs::get(std::string_view name, const Tensor& otherwise) const {
  const auto* v = typed<Tensor>(*this, name, "a tensor");
  return v ? *v : otherwise;
}
std::shared_ptr<const Graph> Attrs::graph(std::string_view name) const {
  const auto* v = typed<std::shared_ptr<const Graph>>(*this, name, "a graph");
  return v ? *v : nullptr;
}

void Attrs::set(std::string_view name, decltype(Attr::value) value) {
  for (Attr& attr : all) {
    if (attr.name == name) {
      attr.value = std::move(value);
      attr.extras = nullptr;
      return;
    }
  }
  all.push_back({std::string(name), std::move(value), nullptr});
}

void Attrs::erase(std::string_view name) {
  std::erase_if(all, [&](const Attr& attr) { return attr.name == name; });
}

ValueId Graph::add_value(Value value) {
  values_.emplace_back(std::move(value));
  return static_cast<ValueId>(values_.size() - 1);
}

NodeId Graph::add_node(Node node) {
  nodes_.emplace_back(std::move(node));
  return static_cast<NodeId>(nodes_.size() - 1);
}

void Graph::erase(NodeId id) {
  QTOOL_ENSURE(alive(id), "only a live node is erased");
  nodes_[index(id)].reset();
}

void Graph::erase(ValueId id) {
  QTOOL_ENSURE(alive(id), "only a live value is erased");
  values_[index(id)].reset();
}

void Graph::replace_uses(ValueId from, ValueId to) {
  const auto change = [&](Use& use) {
    if (use.value == from) use = {to, nullptr};
  };
  for (auto& node : nodes_) {
    if (!node) continue;
    for (Use& use : node->inputs) change(use);
    for (Use& use : node->captured) change(use);
  }
  for (Use& use : outputs) change(use);
}

const Node& Graph::operator[](NodeId id) const {
  QTOOL_ENSURE(alive(id), "a node id names a live node");
  return *nodes_[index(id)];
}
Node& Graph::operator[](NodeId id) { return const_cast<Node&>(std::as_const(*this)[id]); }
const Value& Graph::operator[](ValueId id) const {
  QTOOL_ENSURE(alive(id), "a value id names a live value");
  return *values_[index(id)];
}
Value& Graph::operator[](ValueId id) { return const_cast<Value&>(std::as_const(*this)[id]); }

bool Graph::alive(NodeId id) const { return index(id) < nodes_.size() && nodes_[index(id)].has_value(); }
bool Graph::alive(ValueId id) const { return index(id) < values_.size() && values_[index(id)].has_value(); }

std::vector<NodeId> Graph::nodes() const {
  std::vector<NodeId> ids;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i]) ids.push_back(static_cast<NodeId>(i));
  }
  return ids;
}

std::vector<ValueId> Graph::values() const {
  std::vector<ValueId> ids;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (values_[i]) ids.push_back(static_cast<ValueId>(i));
  }
  return ids;
}

std::vector<NodeId> Graph::order() const {
  std::vector<NodeId> producer(values_.size(), NodeId::none);
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (!nodes_[i]) continue;
    for (const ValueId v : nodes_[i]->outputs) {
      if (v != ValueId::none) producer[index(v)] = static_cast<NodeId>(i);
    }
  }
  enum : std::uint8_t { fresh, open, done };
  std::vector<std::uint8_t> state(nodes_.size(), fresh);
  std::vector<NodeId> result;
  struct Frame {
    std::size_t node, next;
  };
  std::vector<Frame> stack;
  for (std::size_t root = 0; root < nodes_.size(); ++root) {
    if (!nodes_[root] || state[root] != fresh) continue;
    stack.push_back({root, 0});
    state[root] = open;
    while (!stack.empty()) {
      Frame& top = stack.back();
      const Node& node = *nodes_[top.node];
      const std::size_t inputs_end = node.inputs.size(), all = inputs_end + node.captured.size();
      if (top.next == all) {
        state[top.node] = done;
        result.push_back(static_cast<NodeId>(top.node));
        stack.pop_back();
        continue;
      }
      const ValueId v =
          top.next < inputs_end ? node.inputs[top.next].value : node.captured[top.next - inputs_end].value;
      ++top.next;
      if (v == ValueId::none || producer[index(v)] == NodeId::none) continue;
      const std::size_t before = index(producer[index(v)]);
      if (state[before] == done) continue;
      if (state[before] == open) {
        throw Error(Code::input,
                    "the graph has a cycle through node \"" + nodes_[before]->name + "\" (" + nodes_[before]->op + ")",
                    "ONNX graphs are acyclic; export the model again");
      }
      state[before] = open;
      stack.push_back({before, 0});
    }
  }
  return result;
}

std::optional<ValueId> Graph::find_value(std::string_view wanted) const {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (values_[i] && values_[i]->name == wanted) return static_cast<ValueId>(i);
  }
  return std::nullopt;
}

std::optional<NodeId> Graph::find_node(std::string_view wanted) const {
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i] && nodes_[i]->name == wanted) return static_cast<NodeId>(i);
  }
  return std::nullopt;
}

std::string Graph::fresh_name(std::string_view stem) const {
  std::set<std::string, std::less<>> names;
  collect_names(*this, names);
  std::string candidate(stem);
  for (int i = 1; names.contains(candidate); ++i) candidate = std::string(stem) + "_" + std::to_string(i);
  return candidate;
}

std::int64_t Graph::opset(std::string_view domain) const {
  if (!model) return 0;
  const auto found = model->opsets.find(std::string(domain == "ai.onnx" ? "" : domain));
  return found == model->opsets.end() ? 0 : found->second;
}

Links::Links(const Graph& graph) : producers_(graph.value_slots(), NodeId::none), consumers_(graph.value_slots()) {
  const auto note = [&](ValueId v, Consumer c) {
    if (v != ValueId::none) consumers_[index(v)].push_back(c);
  };
  for (const NodeId n : graph.nodes()) {
    const Node& node = graph[n];
    for (const ValueId v : node.outputs) {
      if (v != ValueId::none) producers_[index(v)] = n;
    }
    for (std::size_t i = 0; i < node.inputs.size(); ++i) note(node.inputs[i].value, {n, static_cast<int>(i)});
    for (std::size_t i = 0; i < node.captured.size(); ++i) {
      note(node.captured[i].value, {n, -static_cast<int>(i) - 1});
    }
  }
  for (std::size_t i = 0; i < graph.outputs.size(); ++i) {
    note(graph.outputs[i].value, {NodeId::none, static_cast<int>(i)});
  }
}

const Use& use_at(const Graph& graph, const Links::Consumer& c) {
  if (c.node == NodeId::none) return graph.outputs[static_cast<std::size_t>(c.input)];
  const Node& node = graph[c.node];
  return c.input >= 0 ? node.inputs[static_cast<std::size_t>(c.input)]
                      : node.captured[static_cast<std::size_t>(-c.input - 1)];
}

Use& use_at(Graph& graph, const Links::Consumer& c) { return const_cast<Use&>(use_at(std::as_const(graph), c)); }

std::string_view label_of(const Graph& graph, NodeId id) {
  const Node& node = graph[id];
  if (!node.name.empty()) return node.name;
  for (const ValueId out : node.outputs) {
    if (out != ValueId::none) return graph[out].name;
  }
  return {};
}

void collect_names(const Graph& graph, std::set<std::string, std::less<>>& names) {
  for (const ValueId v : graph.values()) names.insert(graph[v].name);
  for (const NodeId n : graph.nodes()) {
    names.insert(graph[n].name);
    for_each_body(graph[n], [&](const Graph& body) { collect_names(body, names); });
  }
}

void for_each_body(const Node& node, const std::function<void(const Graph&)>& f) {
  for (const Attr& attr : node.attrs.all) {
    if (const auto* body = std::get_if<std::shared_ptr<const Graph>>(&attr.value)) f(**body);
    if (const auto* bodies = std::get_if<std::vector<std::shared_ptr<const Graph>>>(&attr.value)) {
      for (const auto& b : *bodies) f(*b);
    }
  }
}

}  // namespace qtool

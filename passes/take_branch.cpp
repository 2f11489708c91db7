// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "passes/rewrite.h"

namespace qtool {
namespace {

/// The body written out in the place of its node.
class Branch {
 public:
  Branch(Graph& graph, NodeId id, const Graph& body) : graph_(graph), body_(body), node_(graph[id]) {
    for (const Capture& c : body.captures) place_[c.inner] = node_.captured[c.outer].value;
    const Links links(body);
    for (std::size_t i = 0; i < body.outputs.size(); ++i) {
      const ValueId inner = body.outputs[i].value;
      if (links.producer(inner) != NodeId::none && result(i) != ValueId::none) place_.try_emplace(inner, result(i));
    }
    graph.erase(id);
  }

  std::vector<std::pair<std::string, std::string>> write() {
    for (const NodeId n : body_.order()) {
      Node node = body_[n];
      for (Use& use : node.inputs) use.value = here(use.value);
      for (Use& use : node.captured) use.value = here(use.value);
      for (ValueId& v : node.outputs) v = here(v);
      graph_.add_node(std::move(node));
    }
    for (std::size_t i = 0; i < body_.outputs.size(); ++i) {
      const ValueId from = here(body_.outputs[i].value);
      if (result(i) == ValueId::none || from == result(i)) continue;
      Node identity;  // a captured value, a constant, or one result under two names
      identity.op = "Identity";
      identity.inputs = {{from, nullptr}};
      identity.outputs = {result(i)};
      graph_.add_node(std::move(identity));
    }
    return std::move(renamed_);
  }

 private:
  ValueId result(std::size_t i) const { return i < node_.outputs.size() ? node_.outputs[i] : ValueId::none; }

  ValueId here(ValueId inner) {
    if (inner == ValueId::none) return inner;
    const auto found = place_.find(inner);
    if (found != place_.end()) return found->second;
    Value value = body_[inner];
    const std::string old = value.name;
    value.name = graph_.fresh_name(old);
    if (value.name != old) renamed_.emplace_back(old, value.name);
    return place_[inner] = graph_.add_value(std::move(value));
  }

  Graph& graph_;
  const Graph& body_;
  const Node node_;  // a copy: the original goes
  std::map<ValueId, ValueId> place_;
  std::vector<std::pair<std::string, std::string>> renamed_;
};

}  // namespace

std::vector<std::pair<std::string, std::string>> take_branch(Graph& graph, NodeId id, bool condition) {
  const auto body = graph[id].attrs.graph(condition ? "then_branch" : "else_branch");
  return Branch(graph, id, *body).write();
}

}  // namespace qtool

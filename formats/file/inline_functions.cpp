// SPDX-License-Identifier: Apache-2.0
// Calls of local functions replaced by what they do: values and nodes get fresh names, attribute references get the
// caller's value or the function's default. Work grows with what is written out, which is bounded.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "formats/base/error.h"
#include "formats/file/bodies.h"
#include "formats/file/reader.h"
#include "formats/ir/verify.h"

namespace qtool {
namespace {

// Functions that call each other can double at every level; no real model comes near this.
constexpr std::size_t most_nodes = std::size_t{1} << 22;

/// What an attribute reference inside a function stands for, in one call.
struct Call {
  const Function& function;
  const Node& node;
  std::string stem;  // opens the names of what the call becomes

  /// Null: the caller left it out and there is no default.
  const Attr* resolve(const std::string& name) const {
    if (const Attr* given = node.attrs.find(name)) return given;
    for (const Attr& attr : function.defaults) {
      if (attr.name == name) return &attr;
    }
    return nullptr;
  }
};

class Inliner {
 public:
  Graph run(const Graph& graph);

 private:
  const Function* callee(const Node& node) const;
  void inline_calls(Graph& graph);
  void expand(Graph& graph, NodeId at, const Function& function);
  void resolve_attrs(Node& node, const Call& call);
  void instantiate(Graph& body, const Call& call);
  std::string fresh(const std::string& stem, const std::string& name);
  void check_growth(const Graph& graph) const;
  std::size_t unfolded(const Graph& graph, const std::map<const Function*, std::size_t>& sizes) const;
  void collect_callees(const Graph& graph, std::set<const Function*>& found) const;

  std::map<std::tuple<std::string, std::string, std::string>, const Function*> functions_;
  std::vector<Function> converted_;  // at the model's operator sets
  std::set<std::string, std::less<>> names_;
  std::map<std::string, int> serials_;  // the last number given to a name
};

const Function* Inliner::callee(const Node& node) const {
  const auto found = functions_.find({node.domain, node.op, node.overload});
  return found == functions_.end() ? nullptr : found->second;
}

std::string Inliner::fresh(const std::string& stem, const std::string& name) {
  std::string candidate = stem.empty() ? name : stem + "/" + name;
  const std::string base = candidate;
  while (!names_.insert(candidate).second) candidate = base + "_" + std::to_string(++serials_[base]);
  return candidate;
}

void Inliner::collect_callees(const Graph& graph, std::set<const Function*>& found) const {
  for (const NodeId n : graph.nodes()) {
    if (const Function* f = callee(graph[n])) found.insert(f);
    for_each_body(graph[n], [&](const Graph& body) { collect_callees(body, found); });
  }
}

std::size_t Inliner::unfolded(const Graph& graph, const std::map<const Function*, std::size_t>& sizes) const {
  std::size_t sum = 0;
  for (const NodeId n : graph.nodes()) {
    const Function* f = callee(graph[n]);
    sum += f == nullptr ? 1 : sizes.at(f);
    for_each_body(graph[n], [&](const Graph& body) { sum += unfolded(body, sizes); });
    sum = std::min(sum, most_nodes + 1);
  }
  return sum;
}

/// Counts before anything is written out. Functions after those that they call; verify() has shown that there is
/// such an order. A stack of our own, since chains may be as long as the file allows.
void Inliner::check_growth(const Graph& graph) const {
  std::map<const Function*, std::size_t> sizes;
  std::vector<const Function*> stack;
  for (const auto& [key, f] : functions_) stack.push_back(f);
  while (!stack.empty()) {
    const Function* f = stack.back();
    std::set<const Function*> callees;
    if (!sizes.contains(f)) collect_callees(*f->body, callees);
    std::erase_if(callees, [&](const Function* c) { return sizes.contains(c); });
    if (callees.empty()) {
      if (!sizes.contains(f)) sizes[f] = unfolded(*f->body, sizes);
      stack.pop_back();
    } else {
      stack.insert(stack.end(), callees.begin(), callees.end());
    }
  }
  if (unfolded(graph, sizes) > most_nodes) {
    throw Error(Code::input, "the local functions of the model unfold to too many nodes");
  }
}

void Inliner::resolve_attrs(Node& node, const Call& call) {
  std::vector<Attr> resolved;
  for (Attr& attr : node.attrs.all) {
    const auto* reference = std::get_if<AttrRef>(&attr.value);
    if (reference == nullptr) {
      resolved.push_back(std::move(attr));
    } else if (const Attr* value = call.resolve(reference->name)) {
      resolved.push_back({attr.name, value->value, nullptr});
      if (std::holds_alternative<OpaqueAttr>(value->value)) {
        throw Error(Code::input, "the call \"" + call.node.name + "\" of the function \"" + call.function.name +
                                     "\" passes the attribute \"" + value->name + "\", whose type is not known");
      }
    }
  }
  node.attrs.all = std::move(resolved);
  edit_bodies(node, [&](Graph& body) { instantiate(body, call); });
}

/// A body inside a function: its own names made fresh, its references resolved.
void Inliner::instantiate(Graph& body, const Call& call) {
  std::set<ValueId> captured;
  for (const Capture& c : body.captures) captured.insert(c.inner);
  for (const ValueId v : body.values()) {
    if (!captured.contains(v)) body[v].name = fresh(call.stem, body[v].name);
  }
  for (const NodeId n : body.nodes()) {
    if (!body[n].name.empty()) body[n].name = fresh(call.stem, body[n].name);
    resolve_attrs(body[n], call);
  }
}

void Inliner::expand(Graph& graph, NodeId at, const Function& function) {
  const Node node = std::move(graph[at]);
  graph.erase(at);
  const Graph& body = *function.body;
  const Call call{function, node, node.name.empty() ? function.name : node.name};
  const auto refuse = [&](const std::string& why) {
    throw Error(Code::input, "the call \"" + node.name + "\" of the function \"" + function.name + "\" " + why);
  };
  if (node.inputs.size() > body.inputs.size()) refuse("has more inputs than the function");
  if (node.outputs.size() > body.outputs.size()) refuse("has more outputs than the function");
  std::vector<ValueId> outer(body.value_slots(), ValueId::none);
  std::vector<bool> known(body.value_slots(), false);
  for (std::size_t i = 0; i < body.inputs.size(); ++i) {
    outer[index(body.inputs[i])] = i < node.inputs.size() ? node.inputs[i].value : ValueId::none;
    known[index(body.inputs[i])] = true;
  }
  // An output that is an input or an earlier output of the function needs a value of its own.
  std::vector<std::pair<ValueId, ValueId>> copies;  // from a value of the body to a value of the graph
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == ValueId::none) continue;
    const ValueId inner = body.outputs[i].value;
    if (known[index(inner)]) {
      copies.emplace_back(inner, node.outputs[i]);
    } else {
      outer[index(inner)] = node.outputs[i];
      known[index(inner)] = true;
    }
  }
  for (const ValueId v : body.values()) {
    if (known[index(v)]) continue;
    Value value = body[v];
    value.name = fresh(call.stem, value.name);
    outer[index(v)] = graph.add_value(std::move(value));
  }
  for (const NodeId n : body.order()) {
    Node inner = body[n];
    if (!inner.name.empty()) inner.name = fresh(call.stem, inner.name);
    for (Use& use : inner.inputs) {
      if (use.value != ValueId::none) use.value = outer[index(use.value)];
    }
    for (Use& use : inner.captured) {
      use.value = outer[index(use.value)];
      if (use.value == ValueId::none) refuse("leaves out an input that a body of the function needs");
    }
    for (ValueId& v : inner.outputs) {
      if (v != ValueId::none) v = outer[index(v)];
    }
    resolve_attrs(inner, call);
    graph.add_node(std::move(inner));
  }
  for (const auto& [inner, value] : copies) {
    if (outer[index(inner)] == ValueId::none) refuse("leaves out an input that the function returns");
    Node copy;
    copy.op = "Identity";
    copy.name = fresh(call.stem, "Identity");
    copy.inputs = {{outer[index(inner)], nullptr}};
    copy.outputs = {value};
    graph.add_node(std::move(copy));
  }
}

void Inliner::inline_calls(Graph& graph) {
  // Nodes of expanded calls are appended, so this walk meets the calls among them too; verify() has shown that no
  // function calls itself.
  for (std::size_t i = 0; i < graph.node_slots(); ++i) {
    const auto n = static_cast<NodeId>(i);
    if (!graph.alive(n)) continue;
    if (const Function* function = callee(graph[n])) {
      expand(graph, n, *function);
    } else {
      edit_bodies(graph[n], [&](Graph& body) { inline_calls(body); });
    }
  }
}

Graph Inliner::run(const Graph& graph) {
  Graph result = graph;
  if (graph.model == nullptr || graph.model->functions.empty()) return result;
  verify(graph);
  auto model = std::make_shared<ModelInfo>(*graph.model);
  const std::vector<Function> functions = std::move(model->functions);
  model->functions.clear();
  converted_.reserve(functions.size());
  std::set<std::string> function_domains;
  for (const Function& f : functions) {
    Function& own = converted_.emplace_back(f);
    function_domains.insert(f.domain);
    for (const auto& [domain, version] : f.opsets) {
      const auto [at, fresh_import] = model->opsets.emplace(domain, version);
      if (fresh_import || at->second == version) continue;
      if (!domain.empty()) {
        throw Error(Code::input, "the function \"" + f.name + "\" uses version " + std::to_string(version) +
                                     " of the operator set \"" + domain + "\", the model uses " +
                                     std::to_string(at->second));
      }
      Graph body = *f.body;
      convert_opset(body, at->second);
      own.body = std::make_shared<const Graph>(std::move(body));
    }
    functions_[{own.domain, own.name, own.overload}] = &own;
  }
  check_growth(graph);
  collect_names(graph, names_);
  inline_calls(result);
  std::set<std::string> used;
  const std::function<void(const Graph&)> note = [&](const Graph& g) {
    for (const NodeId n : g.nodes()) {
      used.insert(g[n].domain);
      for_each_body(g[n], note);
    }
  };
  note(result);
  for (const std::string& domain : function_domains) {
    if (!used.contains(domain)) model->opsets.erase(domain);
  }
  set_model(result, model);
  return result;
}

}  // namespace

Graph inline_functions(const Graph& graph) { return Inliner().run(graph); }

}  // namespace qtool

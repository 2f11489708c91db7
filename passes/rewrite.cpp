// SPDX-License-Identifier: Apache-2.0
#include "passes/rewrite.h"
#include "formats/ir/absent.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>
#include <set>
#include <utility>

#include "calib/executor.h"
#include "calib/op.h"
#include "formats/base/error.h"

namespace qtool {

bool is_op(const Node& node, std::string_view op, std::string_view domain) {
  return node.op == op && node.domain == domain;
}

ValueId input_of(const Node& node, std::size_t i) {
  return i < node.inputs.size() ? node.inputs[i].value : ValueId::none;
}

std::string label(const Graph& graph, NodeId id) {
  const std::string_view name = label_of(graph, id);
  return name.empty() ? graph[id].op : std::string(name);
}

const Tensor* fixed_constant(const Graph& graph, ValueId v) {
  if (!graph.is_constant(v)) return nullptr;
  if (std::find(graph.inputs.begin(), graph.inputs.end(), v) != graph.inputs.end()) return nullptr;
  return &graph[v].data;
}

Tensor resolve_constant(const Graph& graph, const Links& links, ValueId v, Threads& threads) {
  if (v == ValueId::none) return {};
  if (const Tensor* data = fixed_constant(graph, v)) return *data;
  const NodeId id = links.producer(v);
  if (id == NodeId::none) return {};
  constexpr std::array movers = {"Constant", "Identity", "Cast",      "Transpose",
                                 "Reshape",  "Squeeze",  "Unsqueeze", "Flatten"};
  const Node& node = graph[id];
  if (std::none_of(movers.begin(), movers.end(), [&](const char* op) { return is_op(node, op); })) return {};
  std::vector<Tensor> inputs;
  for (const Use& use : node.inputs) {
    inputs.push_back(use.value == ValueId::none ? Tensor{} : resolve_constant(graph, links, use.value, threads));
    if (use.value != ValueId::none && inputs.back().empty()) return {};
  }
  const auto outputs = evaluate_node(graph, id, inputs, threads);
  return outputs ? (*outputs)[0] : Tensor{};
}

std::optional<Links::Consumer> sole_consumer(const Graph& graph, const Links& links, ValueId v) {
  const auto all = links.consumers(v);
  if (all.size() != 1 || all[0].node == NodeId::none || all[0].input < 0) return std::nullopt;
  if (std::find(graph.inputs.begin(), graph.inputs.end(), v) != graph.inputs.end()) return std::nullopt;
  return all[0];
}

bool has_decisions(const Graph& graph, const Links& links, NodeId id) {
  const Node& node = graph[id];
  const auto decided = [](const Use& use) { return use.quant != nullptr; };
  if (std::any_of(node.inputs.begin(), node.inputs.end(), decided)) return true;
  for (const ValueId v : node.outputs) {
    if (v == ValueId::none) continue;
    const auto all = links.consumers(v);
    if (std::any_of(all.begin(), all.end(), [&](const auto& c) { return decided(use_at(graph, c)); })) return true;
  }
  return false;
}

ValueId add_constant(Graph& graph, std::string_view stem, Tensor data) {
  Value value;
  value.name = graph.fresh_name(stem);
  value.type.dtype = data.dtype();
  value.type.known_dtype = value.type.known_rank = true;
  value.type.shape = data.shape();
  value.data = std::move(data);
  return graph.add_value(std::move(value));
}

void set_constant_input(Graph& graph, NodeId node, std::size_t i, Tensor data) {
  const ValueId old = graph[node].inputs[i].value;
  const bool alone = Links(graph).consumers(old).size() == 1 && fixed_constant(graph, old) != nullptr;
  if (!alone) {
    const ValueId own = add_constant(graph, graph[old].name, std::move(data));
    graph[node].inputs[i].value = own;
    return;
  }
  Value& value = graph[old];
  value.type.dtype = data.dtype();
  value.type.known_dtype = value.type.known_rank = true;
  value.type.shape = data.shape();
  value.type.symbols.clear();
  value.data = std::move(data);
}

void redirect(Graph& graph, ValueId from, ValueId to) {
  const Links links(graph);
  for (const Links::Consumer& c : links.consumers(from)) use_at(graph, c).value = to;
}

bool bypass(Graph& graph, NodeId id, ValueId by) {
  const ValueId out = graph[id].outputs[0];
  const Links links(graph);
  const auto is_output = [&](ValueId v) {
    return std::any_of(graph.outputs.begin(), graph.outputs.end(), [&](const Use& use) { return use.value == v; });
  };
  if (!is_output(out)) {
    redirect(graph, out, by);
    graph.erase(id);
    return true;
  }
  const NodeId producer = links.producer(by);
  if (is_output(by) || producer == NodeId::none) return false;
  graph.erase(id);
  redirect(graph, by, out);
  auto& outputs = graph[producer].outputs;
  std::replace(outputs.begin(), outputs.end(), by, out);
  return true;
}

std::int64_t erase_dead(Graph& graph) {
  std::int64_t erased = 0;
  const auto order = graph.order();
  const auto known = [&](const Node& node) {
    return node.domain.empty() || node.domain == "ai.onnx.ml" || node.domain == "com.microsoft" ||
           find_op(node.domain, node.op) != nullptr;
  };
  std::vector<std::int64_t> uses(graph.value_slots());
  const auto count = [&](const std::vector<Use>& list, std::int64_t step) {
    for (const Use& use : list) {
      if (use.value != ValueId::none) uses[static_cast<std::size_t>(use.value)] += step;
    }
  };
  for (const NodeId n : order) {
    count(graph[n].inputs, 1);
    count(graph[n].captured, 1);
  }
  count(graph.outputs, 1);
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    const Node& node = graph[*it];
    const bool wanted = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) {
      return v != ValueId::none && uses[static_cast<std::size_t>(v)] > 0;
    });
    if (wanted || !known(node)) continue;
    count(node.inputs, -1);
    count(node.captured, -1);
    graph.erase(*it);
    ++erased;
  }
  std::set<ValueId> kept(graph.inputs.begin(), graph.inputs.end());
  for (const Capture& c : graph.captures) kept.insert(c.inner);
  for (const NodeId n : graph.nodes()) kept.insert(graph[n].outputs.begin(), graph[n].outputs.end());
  for (const ValueId v : graph.values()) {
    if (uses[static_cast<std::size_t>(v)] == 0 && !kept.contains(v)) graph.erase(v);
  }
  return erased;
}

void replace_bodies(Graph& graph, NodeId id,
                    const std::function<std::shared_ptr<const Graph>(const std::shared_ptr<const Graph>&)>& f) {
  Node& node = graph[id];
  std::vector<std::shared_ptr<const Graph>*> bodies;
  for (Attr& attr : node.attrs.all) {
    if (auto* body = std::get_if<std::shared_ptr<const Graph>>(&attr.value)) bodies.push_back(body);
    if (auto* list = std::get_if<std::vector<std::shared_ptr<const Graph>>>(&attr.value)) {
      for (auto& body : *list) bodies.push_back(&body);
    }
  }
  bool any = false;
  for (auto* body : bodies) {
    if (auto changed = f(*body)) {
      *body = std::move(changed);
      any = true;
    }
  }
  if (!any) return;
  std::vector<bool> used(node.captured.size());
  for (auto* body : bodies) {
    for (const Capture& c : (*body)->captures) used[c.outer] = true;
  }
  if (std::find(used.begin(), used.end(), false) == used.end()) return;
  std::vector<std::uint32_t> place(used.size());
  std::vector<Use> captured;
  for (std::size_t i = 0; i < used.size(); ++i) {
    place[i] = static_cast<std::uint32_t>(captured.size());
    if (used[i]) captured.push_back(node.captured[i]);
  }
  node.captured = std::move(captured);
  for (auto* body : bodies) {
    auto renumbered = std::make_shared<Graph>(**body);
    for (Capture& c : renumbered->captures) c.outer = place[c.outer];
    *body = std::move(renumbered);
  }
}

namespace {

/// The results of a node whose inputs are not all here: what type inference says, where it says all.
std::optional<std::vector<Tensor>> absent_results(const Graph& single, const Node& node, std::string* why) {
  Graph typed = single;
  infer_types(typed);
  std::vector<Tensor> outputs(node.outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (node.outputs[i] == ValueId::none) continue;
    const Type& type = typed[node.outputs[i]].type;
    const bool known = type.known_dtype && type.known_rank && type.dtype != DType::string &&
                       std::all_of(type.shape.begin(), type.shape.end(), [](auto n) { return n >= 0; });
    if (!known) {
      if (why != nullptr) *why = "its shape depends on weights that are not here";
      return std::nullopt;
    }
    outputs[i] = absent(type.dtype, type.shape);
  }
  return outputs;
}

}  // namespace

std::optional<std::vector<Tensor>> evaluate_node(const Graph& graph, NodeId id, std::span<const Tensor> inputs,
                                                 Threads& threads, std::string* why) {
  Graph single;
  single.model = graph.model;
  Node node = graph[id];
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i].value == ValueId::none) continue;
    Value value;
    value.name = "input_" + std::to_string(i);
    value.type.dtype = inputs[i].dtype();
    value.type.known_dtype = value.type.known_rank = true;
    value.type.shape = inputs[i].shape();
    value.data = inputs[i];
    node.inputs[i] = {single.add_value(std::move(value)), nullptr};
  }
  std::vector<ValueId> wanted;
  for (ValueId& v : node.outputs) {
    if (v == ValueId::none) continue;
    Value value;
    value.name = "output_" + std::to_string(wanted.size());
    value.type = graph[v].type;
    v = single.add_value(std::move(value));
    wanted.push_back(v);
    single.outputs.push_back({v, nullptr});
  }
  single.add_node(node);
  const auto refuse = [&](const std::string& reason) {
    if (why != nullptr) *why = reason;
    return std::nullopt;
  };
  try {
    if (std::any_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return is_absent(t); })) {
      return absent_results(single, node, why);
    }
    auto results = Executor(single, Reading::reference, threads).run({}, wanted);
    std::vector<Tensor> outputs(node.outputs.size());
    for (std::size_t i = 0, k = 0; i < outputs.size(); ++i) {
      if (node.outputs[i] != ValueId::none) outputs[i] = std::move(results[k++]);
    }
    return outputs;
  } catch (const Error& e) {
    if (e.code() == Code::interrupted) throw;
    return refuse(e.what());
  } catch (const std::bad_alloc&) {
    return refuse("its result does not fit into memory");
  }
}

std::vector<double> to_doubles(const Tensor& t) {
  if (t.dtype() == DType::f64) {
    const auto values = t.read<double>();
    return {values.begin(), values.end()};
  }
  if (is_integer(t.dtype()) || t.dtype() == DType::boolean) {
    const auto values = to_int64s(t);
    return {values.begin(), values.end()};
  }
  const Tensor f = to_f32(t);
  const auto values = f.read<float>();
  return {values.begin(), values.end()};
}

std::optional<Tensor> from_doubles(std::span<const double> values, const Shape& shape, DType dtype) {
  if (dtype == DType::f64) return Tensor::of<double>(shape, values);
  Tensor f(DType::f32, shape);
  const auto out = f.write<float>();
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<float>(values[i]);
  Tensor stored = from_f32(f, dtype);
  const Tensor back = to_f32(stored);
  const auto seen = back.read<float>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && !std::isfinite(seen[i])) return std::nullopt;
  }
  return stored;
}

}  // namespace qtool

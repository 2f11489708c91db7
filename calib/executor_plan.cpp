// SPDX-License-Identifier: Apache-2.0
// How a graph is laid out for running: Executor::Plan's steps, operands and schedules.
#include <algorithm>
#include <map>
#include <tuple>

#include "calib/executor_plan.h"
#include "calib/ops/on_codes.h"
#include "formats/ir/integer_group.h"

namespace qtool {
namespace {

std::string full_name(const Node& node) { return node.domain.empty() ? node.op : node.domain + "." + node.op; }

bool is_standard(const Node& node) { return node.domain.empty() || node.domain == "ai.onnx"; }

std::int64_t opset_of(const Graph& graph, const Node& node) {
  return is_standard(node) ? graph.opset() : std::max<std::int64_t>(graph.opset(node.domain), 1);
}

const OpDef& known_op(const Graph& graph, const Node& node) {
  const OpDef* def = find_op(node.domain, node.op);
  const bool standard = is_standard(node);
  const std::int64_t opset = opset_of(graph, node);
  if (def == nullptr) {
    throw Error(Code::input,
                "node \"" + node.name + "\" uses " + full_name(node) + ", an operator that qtool cannot run",
                standard ? "" : "remove or replace operators of other domains before quantizing");
  }
  if (standard && (opset < def->since || opset > newest_opset)) {
    throw Error(Code::input,
                "node \"" + node.name + "\" uses " + node.op + " of opset " + std::to_string(opset) +
                    "; qtool knows opsets " + std::to_string(def->since) + " to " + std::to_string(newest_opset),
                "convert the model to an opset in between");
  }
  return *def;
}

/// scale(x) * scale(weight) of the node that adds the bias; empty where one of them is unknown before running, as
/// runtimes then add the bias in float.
Tensor scale_of_bias(const Node& node) {
  if (node.inputs.size() < 2 || !node.inputs[0].quant || !node.inputs[1].quant) return {};
  const QuantSpec &x = *node.inputs[0].quant, &w = *node.inputs[1].quant;
  if (x.dynamic || w.dynamic || x.scale.empty() || w.scale.empty()) return {};
  const auto sx = x.scale.read<float>(), sw = w.scale.read<float>();
  Tensor scale(DType::f32, {static_cast<std::int64_t>(std::max(sx.size(), sw.size()))});
  auto s = scale.write<float>();
  for (std::size_t i = 0; i < s.size(); ++i) s[i] = sx[i % sx.size()] * sw[i % sw.size()];
  return scale;
}

/// True when operands of the node have quant specs.
bool decided(const Node& node) {
  return std::any_of(node.inputs.begin(), node.inputs.end(), [](const Use& use) { return use.quant != nullptr; });
}

bool has_any(const std::vector<std::uint8_t>& marks, const std::vector<ValueId>& values) {
  return std::any_of(values.begin(), values.end(), [&](ValueId v) { return marks[index(v)] != 0; });
}

}  // namespace

const RunBody& no_bodies() {
  static const RunBody refuse = [](const Graph&, const std::vector<Tensor>&) -> std::vector<Tensor> {
    throw Error(Code::internal, "an operator without bodies asked to run one");
  };
  return refuse;
}

void rethrow_at(const Error& e, const Graph& graph, const Node& node) {
  std::string place = " (node \"" + node.name + "\", " + full_name(node);
  for (const ValueId v : node.outputs) {
    if (v == ValueId::none) continue;
    place += ", output \"" + graph[v].name + "\"";
    break;
  }
  throw Error(e.code(), e.what() + place + ")", e.hint());
}

struct Executor::Plan::Building {
  struct Variant {
    Operand operand;
    const Node* consumer;  // the first one; null: the graph's outputs
    bool used = false;     // by steps that run unless gradients are asked for
  };
  std::vector<std::vector<std::size_t>> of_value;  // places in `variants`
  std::vector<Variant> variants;                   // values as seen through a spec; by slot, from value_slots() on
};

Operand Executor::Plan::operand(const Use& use, Form form, const Node* consumer, Building& building) {
  Operand o;
  if (use.value == ValueId::none) return o;
  o.value = use.value;
  o.slot = static_cast<Slot>(use.value);
  const Tensor& constant = constants[index(use.value)];
  if (reading == Reading::quantized && use.quant) {
    o.spec = use.quant.get();
    if (o.spec->is_bias) {
      o.bias_scale = consumer == nullptr ? Tensor() : scale_of_bias(*consumer);
      if (o.bias_scale.empty()) o.spec = nullptr;
    }
  }
  if (o.spec == nullptr) {
    o.fixed = constant;
    return o;
  }
  auto& known = building.of_value[index(use.value)];
  for (const std::size_t at : known) {
    const Operand& variant = building.variants[at].operand;
    // A bias's scale depends on its consumer.
    if (variant.spec != o.spec || variant.form != form || o.spec->is_bias) continue;
    return variant;
  }
  o.form = form;
  o.slot = static_cast<Slot>(slot_count++);
  known.push_back(building.variants.size());
  building.variants.push_back({o, consumer});
  return o;
}

/// The three parts of an operand on codes.
void Executor::Plan::add_codes(const Use& use, const Node& consumer, Building& building, std::vector<Operand>& to) {
  to.push_back(operand(use, Form::codes, &consumer, building));
  if (is_dynamic(*use.quant)) {
    to.push_back(operand(use, Form::scale, &consumer, building));
    to.push_back(operand(use, Form::zero_point, &consumer, building));
    return;
  }
  to.emplace_back().fixed = use.quant->scale;
  to.emplace_back().fixed = zero_points(*use.quant);
}

/// What constants become in the eyes of their consumers: much work for large models, and no two depend on each other.
void Executor::Plan::quantize_constants(Building& building) {
  auto& variants = building.variants;
  const auto use = [&](const Operand& o) {
    if (o.slot >= graph.value_slots()) variants[o.slot - graph.value_slots()].used = true;
  };
  for (std::size_t s = 0; s < steps.size(); ++s) {
    if (s + 1 < steps.size() && steps[s + 1].on_codes) continue;
    for (const Operand& o : steps[s].inputs) use(o);
    for (const Operand& o : steps[s].captured) use(o);
  }
  for (const Operand& o : outputs) use(o);
  threads.for_each(static_cast<std::int64_t>(variants.size()), 1, [&](std::int64_t begin, std::int64_t) {
    auto& [operand, consumer, used] = variants[static_cast<std::size_t>(begin)];
    const Tensor& constant = constants[index(operand.value)];
    if (constant.empty() || !used) return;
    try {
      operand.fixed = seen(operand, constant);
    } catch (const Error& e) {
      if (consumer == nullptr) throw;
      rethrow_at(e, graph, *consumer);
    }
  });
  const auto take = [&](Operand& o) {
    if (o.spec != nullptr) o.fixed = variants[o.slot - graph.value_slots()].operand.fixed;
  };
  for (PlanStep& step : steps) {
    for (Operand& o : step.inputs) take(o);
    for (Operand& o : step.captured) take(o);
  }
  for (Operand& o : outputs) take(o);
}

/// Takes memory for what operators prepare before values take theirs: later, in the midst of them, it would keep freed
/// places from growing together.
void Executor::Plan::prepare() {
  using Key = std::tuple<const OpDef*, std::size_t, const std::byte*, DType, Shape>;
  std::map<Key, std::shared_ptr<Prepared>> of_constant;
  for (PlanStep& step : steps) {
    for (std::size_t i = 0; step.def->prepares != nullptr && i < step.inputs.size(); ++i) {
      const Tensor& constant = step.inputs[i].fixed;
      const std::int64_t floats = constant.empty() ? 0 : step.def->prepares(*step.node, i, constant);
      if (floats == 0) continue;
      std::shared_ptr<Prepared>& shared =
          of_constant[{step.def, i, constant.bytes().data(), constant.dtype(), constant.shape()}];
      if (shared == nullptr) shared = std::make_shared<Prepared>(floats);
      step.prepared.resize(step.inputs.size());
      step.prepared[i] = shared;
    }
  }
}

PlanStep& Executor::Plan::add_step(NodeId id, const Node& node, const OpDef& def, Building& building) {
  PlanStep step;
  step.id = id;
  step.node = &node;
  step.def = &def;
  step.opset = opset_of(graph, node);
  for (const Use& use : node.inputs) step.inputs.push_back(operand(use, Form::floats, &node, building));
  for (const Use& use : node.captured) step.captured.push_back(operand(use, Form::floats, nullptr, building));
  for_each_body(
      node, [&](const Graph& body) { step.bodies.push_back(std::make_unique<Plan>(body, reading, threads, keeps)); });
  for (const ValueId v : node.outputs) {
    if (v != ValueId::none) producer[index(v)] = static_cast<std::uint32_t>(steps.size());
  }
  return steps.emplace_back(std::move(step));
}

/// The product that the decisions of `node` make of it; false: it runs on floats.
bool Executor::Plan::add_step_on_codes(NodeId id, const Node& node, Building& building) {
  PlanStep step;
  step.id = id;
  step.node = &node;
  step.opset = opset_of(graph, node);
  step.on_codes = true;
  if (const auto product = product_on_codes(graph, node)) {
    step.def = product->def;
    add_codes(node.inputs[0], node, building, step.inputs);
    add_codes(node.inputs[1], node, building, step.inputs);
    if (node.inputs.size() > 2) {
      const Form form = product->integer_bias ? Form::codes : Form::floats;
      step.inputs.push_back(operand(node.inputs[2], form, &node, building));
    }
  } else if (auto blocks = product_in_blocks(graph, node)) {
    own_nodes.push_back(std::move(blocks->node));
    step.node = &own_nodes.back();
    step.def = &op::ms_MatMulNBits;
    step.inside = {node.inputs[1].value};
    step.inputs.push_back(operand({node.inputs[0].value, nullptr}, Form::floats, &node, building));
    for (Tensor& constant : blocks->constants) step.inputs.emplace_back().fixed = std::move(constant);
  } else {
    return false;
  }
  for (const ValueId v : node.outputs) {
    if (v != ValueId::none) producer[index(v)] = static_cast<std::uint32_t>(steps.size());
  }
  steps.push_back(std::move(step));
  return true;
}

Executor::Plan::Plan(const Graph& g, Reading r, Threads& t, bool keeps_copies)
    : graph(g),
      reading(r),
      threads(t),
      keeps(keeps_copies),
      producer(g.value_slots(), no_step),
      constants(g.value_slots()),
      slot_count(g.value_slots()) {
  Building building;
  building.of_value.resize(graph.value_slots());
  for (const ValueId v : graph.values()) constants[index(v)] = graph[v].data;
  const std::vector<NodeId> order = graph.order();
  std::map<NodeId, IntegerGroup> group_of;  // by the node that ends it
  const Links links(graph);
  for (const NodeId id : order) {
    if (reading == Reading::quantized && decided(graph[id])) continue;
    auto group = integer_group(graph, links, id);
    if (!group) group = moved_codes(graph, links, id);
    if (group) group_of[group->last] = std::move(*group);
  }
  for (const NodeId id : order) {
    const Node& node = graph[id];
    const OpDef& def = known_op(graph, node);
    try {
      if (is_standard(node) && node.op == "Constant" && node.outputs.size() == 1 && node.outputs[0] != ValueId::none) {
        std::vector<Tensor> result(1);
        def.forward(OpContext{node, graph.opset(), {}, result, threads, no_bodies()});
        constants[index(node.outputs[0])] = std::move(result[0]);
        continue;
      }
      add_step(id, node, def, building);
      if (const auto group = group_of.find(id); group != group_of.end()) {
        const Node& whole_group = own_nodes.emplace_back(std::move(group->second.node));
        PlanStep& step = add_step(id, whole_group, known_op(graph, whole_group), building);
        step.on_codes = true;
        step.inside = std::move(group->second.inside);
      } else if (reading == Reading::quantized && decided(node)) {
        add_step_on_codes(id, node, building);
      }
    } catch (const Error& e) {
      rethrow_at(e, graph, node);
    }
  }
  for (const Use& use : graph.outputs) {
    outputs.push_back(operand(use, Form::floats, nullptr, building));
    output_values.push_back(use.value);
  }
  quantize_constants(building);
  prepare();
  std::vector<std::uint8_t> given(graph.value_slots(), 0);
  for (const ValueId v : graph.inputs) given[index(v)] = 1;
  for (const Capture& c : graph.captures) given[index(c.inner)] = 1;
  whole = schedule(given, output_values, Keep::wanted);
}

Schedule Executor::Plan::schedule(const std::vector<std::uint8_t>& given, std::span<const ValueId> wanted,
                                  Keep keep) const {
  std::vector<std::uint8_t> needed(steps.size(), 0), seen_values(graph.value_slots(), 0);
  std::vector<ValueId> open(wanted.begin(), wanted.end());
  while (!open.empty()) {
    const ValueId v = open.back();
    open.pop_back();
    if (v == ValueId::none || given[index(v)] != 0 || seen_values[index(v)] != 0) continue;
    seen_values[index(v)] = 1;
    if (producer[index(v)] == no_step) {
      if (!constants[index(v)].empty()) continue;
      if (std::find(graph.inputs.begin(), graph.inputs.end(), v) != graph.inputs.end()) {
        throw Error(Code::calibration, "there are no data for input \"" + graph[v].name + "\"");
      }
      throw Error(Code::input, "nothing computes value \"" + graph[v].name + "\"");
    }
    std::uint32_t s = producer[index(v)];
    // Gradients, and feeds for values inside, need the graph's own nodes.
    if (steps[s].on_codes && (keep == Keep::raw || has_any(given, steps[s].inside))) --s;
    if (needed[s] != 0) continue;
    needed[s] = 1;
    for (const Operand& o : steps[s].inputs) open.push_back(o.value);
    for (const Operand& o : steps[s].captured) open.push_back(o.value);
  }

  Schedule result;
  for (std::uint32_t s = 0; s < steps.size(); ++s) {
    if (needed[s] != 0) result.steps.push_back(s);
  }
  std::vector<std::uint32_t> last(slot_count, no_step);  // position of the last step that touches a slot
  for (std::uint32_t at = 0; at < result.steps.size(); ++at) {
    const PlanStep& step = steps[result.steps[at]];
    const auto touch = [&](const Operand& o) {
      if (o.value == ValueId::none) return;
      if (last[o.slot] == no_step || keep == Keep::raw)
        last[index(o.value)] = at;  // the first consumer makes a variant
      last[o.slot] = at;
    };
    for (const Operand& o : step.inputs) touch(o);
    for (const Operand& o : step.captured) touch(o);
    for (const ValueId v : step.node->outputs) {
      if (v != ValueId::none) last[index(v)] = at;
    }
  }
  if (keep == Keep::wanted) {
    for (const ValueId v : wanted) {
      if (v != ValueId::none) last[index(v)] = no_step;
    }
  }
  std::vector<std::uint32_t> next(result.steps.size() + 1, 0);
  for (const std::uint32_t at : last) {
    if (at != no_step) ++next[at + 1];
  }
  for (std::size_t i = 1; i < next.size(); ++i) next[i] += next[i - 1];
  result.frees_ends.assign(next.begin() + 1, next.end());
  result.frees.resize(next.back());
  for (Slot slot = 0; slot < last.size(); ++slot) {
    if (last[slot] != no_step) result.frees[next[last[slot]]++] = slot;
  }
  return result;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "calib/executor.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <new>

#include "calib/executor_plan.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

bool calls_functions(const Graph& graph, const std::vector<Function>& functions) {
  for (const NodeId n : graph.nodes()) {
    const Node& node = graph[n];
    for (const Function& f : functions) {
      if (f.name == node.op && f.domain == node.domain && f.overload == node.overload) return true;
    }
    bool inside = false;
    for_each_body(node, [&](const Graph& body) { inside = inside || calls_functions(body, functions); });
    if (inside) return true;
  }
  return false;
}

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

/// As runtimes store a bias: int32 codes, zero point 0.
Tensor fake_quantize_bias(const Tensor& bias, const Tensor& scale) {
  const auto s = scale.read<float>();
  Tensor x = to_f32(bias);
  for (std::size_t i = 0; float& v : x.write<float>()) {
    const float step = s[i++ % s.size()];
    const double code = std::nearbyint(static_cast<double>(v / step));
    const auto q = static_cast<std::int32_t>(std::clamp(code, -2147483648.0, 2147483647.0));
    v = static_cast<float>(q) * step;
  }
  return bias.dtype() == DType::f32 ? x : from_f32(x, bias.dtype());
}

/// True when operands of the node have quant specs.
bool decided(const Node& node) {
  return std::any_of(node.inputs.begin(), node.inputs.end(), [](const Use& use) { return use.quant != nullptr; });
}

bool has_any(const std::vector<std::uint8_t>& marks, const std::vector<ValueId>& values) {
  return std::any_of(values.begin(), values.end(), [&](ValueId v) { return marks[index(v)] != 0; });
}

void check_feed(const Value& value, const Tensor& t) {
  const auto refuse = [&](const std::string& what, const std::string& got) {
    throw Error(Code::calibration, "\"" + value.name + "\" takes " + what + ", the data are " + got);
  };
  const Type& type = value.type;
  if (type.known_dtype && type.dtype != t.dtype()) {
    refuse("type " + std::string(name_of(type.dtype)), std::string(name_of(t.dtype())));
  }
  if (!type.known_rank) return;
  bool fits = type.shape.size() == t.shape().size();
  for (std::size_t i = 0; fits && i < type.shape.size(); ++i) {
    fits = type.shape[i] < 0 || type.shape[i] == t.shape()[i];
  }
  if (!fits) refuse("shape " + to_string(type.shape), to_string(t.shape()));
}

const std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)> no_bodies =
    [](const Graph&, const std::vector<Tensor>&) -> std::vector<Tensor> {
  throw Error(Code::internal, "an operator without bodies asked to run one");
};

}  // namespace

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
  };
  std::vector<std::vector<std::size_t>> of_value;  // places in `variants`
  std::vector<Variant> variants;                   // values as seen through a spec; by slot, from value_slots() on
};

Operand Executor::Plan::operand(const Use& use, const Node* consumer, Building& building) {
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
    if (variant.spec != o.spec || o.spec->is_bias) continue;  // a bias's scale depends on its consumer
    return variant;
  }
  o.slot = static_cast<Slot>(slot_count++);
  known.push_back(building.variants.size());
  building.variants.push_back({o, consumer});
  return o;
}

/// What constants become in the eyes of their consumers: much work for large models, and no two depend on each other.
void Executor::Plan::quantize_constants(Building& building) {
  auto& variants = building.variants;
  threads.for_each(static_cast<std::int64_t>(variants.size()), 1, [&](std::int64_t begin, std::int64_t) {
    auto& [operand, consumer] = variants[static_cast<std::size_t>(begin)];
    const Tensor& constant = constants[index(operand.value)];
    if (constant.empty()) return;
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
    const auto is_constant = [](const Operand& o) { return o.value == ValueId::none || !o.fixed.empty(); };
    if (step.inputs.size() > 1 && std::all_of(step.inputs.begin() + 1, step.inputs.end(), is_constant)) {
      step.prepared = std::make_unique<Prepared>();
    }
  }
  for (Operand& o : outputs) take(o);
}

void Executor::Plan::add_step(NodeId id, const Node& node, const OpDef& def, Building& building) {
  PlanStep step;
  step.id = id;
  step.node = &node;
  step.def = &def;
  step.opset = opset_of(graph, node);
  for (const Use& use : node.inputs) step.inputs.push_back(operand(use, &node, building));
  for (const Use& use : node.captured) step.captured.push_back(operand(use, nullptr, building));
  for_each_body(node,
                [&](const Graph& body) { step.bodies.push_back(std::make_unique<Plan>(body, reading, threads)); });
  for (const ValueId v : node.outputs) {
    if (v != ValueId::none) producer[index(v)] = static_cast<std::uint32_t>(steps.size());
  }
  steps.push_back(std::move(step));
}

Executor::Plan::Plan(const Graph& g, Reading r, Threads& t)
    : graph(g),
      reading(r),
      threads(t),
      producer(g.value_slots(), no_step),
      constants(g.value_slots()),
      slot_count(g.value_slots()) {
  Building building;
  building.of_value.resize(graph.value_slots());
  for (const ValueId v : graph.values()) constants[index(v)] = graph[v].data;
  const std::vector<NodeId> order = graph.order();
  std::map<NodeId, const IntegerGroup*> group_of;  // by the node that ends it
  const Links links(graph);
  for (const NodeId id : order) {
    if (reading == Reading::quantized && decided(graph[id])) continue;
    if (auto group = integer_group(graph, links, id)) {
      groups.push_back(std::move(*group));
      group_of[groups.back().last] = &groups.back();
    }
  }
  for (const NodeId id : order) {
    const Node& node = graph[id];
    const OpDef& def = known_op(graph, node);
    try {
      if (is_standard(node) && node.op == "Constant" && node.outputs.size() == 1 && node.outputs[0] != ValueId::none) {
        std::vector<Tensor> result(1);
        def.forward(OpContext{node, graph.opset(), {}, result, threads, no_bodies});
        constants[index(node.outputs[0])] = std::move(result[0]);
        continue;
      }
      add_step(id, node, def, building);
      if (const auto group = group_of.find(id); group != group_of.end()) {
        add_step(id, group->second->node, known_op(graph, group->second->node), building);
        steps.back().group = group->second;
      }
    } catch (const Error& e) {
      rethrow_at(e, graph, node);
    }
  }
  for (const Use& use : graph.outputs) {
    outputs.push_back(operand(use, nullptr, building));
    output_values.push_back(use.value);
  }
  quantize_constants(building);
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
    // Gradients, and feeds for values inside, need the group's own nodes.
    if (steps[s].group != nullptr && (keep == Keep::raw || has_any(given, steps[s].group->inside))) --s;
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

Tensor Executor::Plan::seen(const Operand& o, const Tensor& raw) {
  if (o.spec == nullptr) return raw;
  return o.spec->is_bias ? fake_quantize_bias(raw, o.bias_scale) : fake_quantize(raw, *o.spec);
}

Tensor Executor::Plan::fetch(const Operand& o, Slots& slots) const {
  if (o.value == ValueId::none) return {};
  if (slots[o.slot]) return *slots[o.slot];
  if (o.spec != nullptr && slots[index(o.value)]) {
    slots[o.slot] = seen(o, *slots[index(o.value)]);
    return *slots[o.slot];
  }
  QTOOL_ENSURE(!o.fixed.empty(), "an operand is a constant or was computed before its consumer");
  return o.fixed;
}

namespace {

/// Whether input i is the last to see its slot, so that it may take what lies there: a copy costs an allocation.
bool is_last(const PlanStep& step, std::size_t i, std::span<const Slot> dying) {
  const Operand& o = step.inputs[i];
  constexpr std::size_t few = 8;
  if (o.value == ValueId::none || step.inputs.size() > few || !step.captured.empty()) return false;
  if (std::find(dying.begin(), dying.end(), o.slot) == dying.end()) return false;
  return std::none_of(step.inputs.begin() + static_cast<std::ptrdiff_t>(i) + 1, step.inputs.end(),
                      [&](const Operand& other) { return other.value == o.value; });
}

}  // namespace

std::vector<Tensor> Executor::Plan::run_step(const PlanStep& step, Slots& slots, std::span<const Slot> dying,
                                             Record* record) const {
  std::vector<Tensor> inputs, results(step.node->outputs.size());
  inputs.reserve(step.inputs.size());
  Prepared* prepared = step.prepared.get();
  for (std::size_t i = 0; i < step.inputs.size(); ++i) {
    const Operand& o = step.inputs[i];
    if (i > 0 && o.value != ValueId::none && (slots[o.slot] || slots[index(o.value)])) prepared = nullptr;  // fed
    const bool last = record == nullptr && slots[o.slot] && is_last(step, i, dying);
    inputs.push_back(last ? std::move(*slots[o.slot]) : fetch(o, slots));
  }
  std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)> run_body;
  std::vector<Tensor> outer;
  if (!step.bodies.empty()) {
    for (const Operand& o : step.captured) outer.push_back(fetch(o, slots));
    run_body = [&step, &outer](const Graph& body, std::vector<Tensor> feeds) {
      for (const auto& plan : step.bodies) {
        if (&plan->graph == &body) return plan->call(std::move(feeds), outer);
      }
      throw Error(Code::internal, "an operator asked to run a body that is not its own");
    };
  }
  if (record != nullptr) {
    record->raw.resize(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Operand& o = step.inputs[i];
      if (o.spec == nullptr) continue;
      record->raw[i] = slots[index(o.value)] ? *slots[index(o.value)] : constants[index(o.value)];
    }
    record->inputs = inputs;
  }
  // What dies here belongs to the operator alone, which may then write its result in the same place.
  for (const Slot slot : dying) slots[slot].reset();
  step.def->forward(OpContext{*step.node, step.opset, inputs, results, threads,
                              step.bodies.empty() ? no_bodies : run_body, prepared});
  for (std::size_t i = 0; i < results.size(); ++i) {
    const ValueId v = step.node->outputs[i];
    if (v == ValueId::none) continue;
    if (results[i].empty())
      throw Error(Code::input, "output " + std::to_string(i) + " is not one that this operator has");
    slots[index(v)] = results[i];
  }
  if (record != nullptr) record->outputs = results;
  return results;
}

void Executor::Plan::execute(const Schedule& s, std::size_t at, Slots& slots, const Visit& made, Record* record) const {
  const PlanStep& step = steps[s.steps[at]];
  const std::uint32_t begin = at == 0 ? 0 : s.frees_ends[at - 1];
  const std::span<const Slot> dying(s.frees.data() + begin, s.frees_ends[at] - begin);
  std::vector<Tensor> results;
  try {
    results = run_step(step, slots, dying, record);
  } catch (const Error& e) {
    rethrow_at(e, graph, *step.node);
  } catch (const std::bad_alloc&) {
    rethrow_at(Error(Code::no_fit, "there is not enough memory for the result"), graph, *step.node);
  }
  for (std::size_t i = 0; made && i < results.size(); ++i) {
    if (step.node->outputs[i] != ValueId::none) made(step.node->outputs[i], results[i]);
  }
  for (const Slot slot : dying) slots[slot].reset();
}

void Executor::Plan::execute(const Schedule& s, Slots& slots, const Visit& made,
                             std::span<const std::unique_ptr<Record>> records) const {
  for (std::size_t at = 0; at < s.steps.size(); ++at) {
    execute(s, at, slots, made, records.empty() ? nullptr : records[at].get());
  }
}

std::vector<Tensor> Executor::Plan::finish(Slots& slots) const {
  std::vector<Tensor> result;
  for (const Operand& o : outputs) result.push_back(fetch(o, slots));
  return result;
}

std::vector<Tensor> Executor::Plan::call(std::vector<Tensor> feeds, std::span<const Tensor> outer) const {
  if (feeds.size() != graph.inputs.size()) {
    throw Error(Code::input, "the body \"" + graph.name + "\" takes " + std::to_string(graph.inputs.size()) +
                                 " inputs, the operator gives " + std::to_string(feeds.size()));
  }
  Slots slots(slot_count);
  for (std::size_t i = 0; i < feeds.size(); ++i) {
    if (!feeds[i].empty()) slots[index(graph.inputs[i])] = std::move(feeds[i]);
  }
  for (const Capture& c : graph.captures) {
    QTOOL_ENSURE(c.outer < outer.size(), "a capture names a captured use of its node");
    slots[index(c.inner)] = outer[c.outer];
  }
  execute(whole, slots, nullptr);
  return finish(slots);
}

Slots Executor::Plan::start(const Feeds& feeds, std::vector<std::uint8_t>& given) const {
  Slots slots(slot_count);
  given.assign(graph.value_slots(), 0);
  for (const auto& [v, t] : feeds) {
    QTOOL_ENSURE(graph.alive(v), "a feed is for a value of the graph");
    check_feed(graph[v], t);
    slots[index(v)] = t;
    given[index(v)] = 1;
  }
  return slots;
}

Executor::Executor(const Graph& graph, Reading reading, Threads& threads) {
  if (graph.model && calls_functions(graph, graph.model->functions)) {
    auto inlined = std::make_shared<const Graph>(inline_functions(graph));
    auto plan = std::make_unique<Plan>(*inlined, reading, threads);
    plan->owned = std::move(inlined);
    plan_ = std::move(plan);
  } else {
    plan_ = std::make_unique<const Plan>(graph, reading, threads);
  }
}

Executor::~Executor() = default;

struct Executor::Walk::State {
  const Plan& plan;
  std::vector<std::uint8_t> given, marked;  // by value
  Slots slots;
  Schedule schedule;
  std::size_t at = 0;                               // the step to run next
  std::deque<std::pair<ValueId, Tensor>> computed;  // and not yet handed out
};

Executor::Walk::Walk(const Executor& executor, const Feeds& feeds, std::span<const ValueId> wanted)
    : state_(std::make_unique<State>(State{*executor.plan_, {}, {}, {}, {}, 0, {}})) {
  State& s = *state_;
  s.slots = s.plan.start(feeds, s.given);
  s.schedule = s.plan.schedule(s.given, wanted, Plan::Keep::nothing);
  s.marked.resize(s.plan.graph.value_slots());
  for (const ValueId v : wanted) {
    if (s.marked[index(v)] != 0) continue;
    s.marked[index(v)] = 1;
    if (s.given[index(v)] != 0) {
      s.computed.emplace_back(v, *s.slots[index(v)]);
    } else if (const Tensor& constant = s.plan.constants[index(v)]; !constant.empty()) {
      s.computed.emplace_back(v, constant);
    }
  }
}

Executor::Walk::~Walk() = default;

std::optional<std::pair<ValueId, Tensor>> Executor::Walk::next() {
  State& s = *state_;
  while (s.computed.empty() && s.at < s.schedule.steps.size()) {
    const auto keep = [&](ValueId v, const Tensor& t) {
      if (s.marked[index(v)] != 0) s.computed.emplace_back(v, t);
    };
    s.plan.execute(s.schedule, s.at++, s.slots, keep, nullptr);
  }
  if (s.computed.empty()) return std::nullopt;
  std::pair<ValueId, Tensor> value = std::move(s.computed.front());
  s.computed.pop_front();
  return value;
}

void Executor::run(const Feeds& feeds, std::span<const ValueId> wanted, const Visit& visit) const {
  Walk walk(*this, feeds, wanted);
  while (const auto value = walk.next()) visit(value->first, value->second);
}

std::vector<Tensor> Executor::run(const Feeds& feeds, std::span<const ValueId> wanted) const {
  std::vector<std::size_t> first(plan_->graph.value_slots(), wanted.size());
  for (std::size_t i = wanted.size(); i-- > 0;) first[index(wanted[i])] = i;
  std::vector<Tensor> result(wanted.size());
  run(feeds, wanted, [&](ValueId v, const Tensor& t) { result[first[index(v)]] = t; });
  for (std::size_t i = 0; i < wanted.size(); ++i) result[i] = result[first[index(wanted[i])]];
  return result;
}

std::vector<Tensor> Executor::run(const Feeds& feeds) const {
  std::vector<std::uint8_t> given;
  Slots slots = plan_->start(feeds, given);
  bool usual = true;  // exactly the inputs without default are fed
  std::size_t inputs = 0;
  for (const ValueId v : plan_->graph.inputs) {
    if (plan_->constants[index(v)].empty()) {
      ++inputs;
      usual = usual && given[index(v)] != 0;
    }
  }
  if (usual && inputs == feeds.size()) {
    plan_->execute(plan_->whole, slots, nullptr);
  } else {
    plan_->execute(plan_->schedule(given, plan_->output_values, Plan::Keep::wanted), slots, nullptr);
  }
  return plan_->finish(slots);
}

}  // namespace qtool

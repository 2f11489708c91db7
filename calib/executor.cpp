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

void Executor::Plan::run_step(const PlanStep& step, Slots& slots, std::span<const Slot> dying, Record* record) const {
  std::vector<Tensor> inputs, results(step.node->outputs.size());
  inputs.reserve(step.inputs.size());
  std::vector<Prepared*> prepared(step.prepared.size());
  for (std::size_t i = 0; i < step.inputs.size(); ++i) {
    const Operand& o = step.inputs[i];
    const bool fed = o.value != ValueId::none && (slots[o.slot] || slots[index(o.value)]);
    if (i < prepared.size() && !fed) prepared[i] = step.prepared[i].get();
    const bool last = record == nullptr && slots[o.slot] && is_last(step, i, dying);
    inputs.push_back(last ? std::move(*slots[o.slot]) : fetch(o, slots));
    if (inputs.back().align() && keeps) keep_aligned(o.value, inputs.back());
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
                              step.bodies.empty() ? no_bodies() : run_body, prepared});
  for (std::size_t i = 0; i < results.size(); ++i) {
    const ValueId v = step.node->outputs[i];
    if (v == ValueId::none) continue;
    if (results[i].empty())
      throw Error(Code::input, "output " + std::to_string(i) + " is not one that this operator has");
    if (record == nullptr) {
      slots[index(v)] = std::move(results[i]);
    } else {
      slots[index(v)] = results[i];
    }
  }
  if (record != nullptr) record->outputs = std::move(results);
}

void Executor::Plan::execute(const Schedule& s, std::size_t at, Slots& slots, const Visit& made, Record* record) const {
  const PlanStep& step = steps[s.steps[at]];
  if (at + 1 < s.steps.size()) {  // what describes the next step left the caches long ago: it comes back meanwhile
    const PlanStep& next = steps[s.steps[at + 1]];
    __builtin_prefetch(next.inputs.data());
    __builtin_prefetch(&next.node->outputs);
  }
  const std::uint32_t begin = at == 0 ? 0 : s.frees_ends[at - 1];
  const std::span<const Slot> dying(s.frees.data() + begin, s.frees_ends[at] - begin);
  try {
    run_step(step, slots, dying, record);
  } catch (const Error& e) {
    rethrow_at(e, graph, *step.node);
  } catch (const std::bad_alloc&) {
    rethrow_at(Error(Code::no_fit, "there is not enough memory for the result"), graph, *step.node);
  }
  for (const ValueId v : step.node->outputs) {
    if (made && v != ValueId::none) made(v, *slots[index(v)]);
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

Executor::Executor(const Graph& graph, Reading reading, Threads& threads, std::int64_t runs) {
  const bool keeps = runs >= many_runs;
  if (graph.model && calls_functions(graph, graph.model->functions)) {
    auto inlined = std::make_shared<const Graph>(inline_functions(graph));
    auto plan = std::make_unique<Plan>(*inlined, reading, threads, keeps);
    plan->owned = std::move(inlined);
    plan_ = std::move(plan);
  } else {
    plan_ = std::make_unique<const Plan>(graph, reading, threads, keeps);
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

// SPDX-License-Identifier: Apache-2.0
// Reverse-mode differentiation over a plan: run forward keeping what the steps on the way back need, then walk the
// steps in reverse and add up gradients per value.
#include <algorithm>
#include <limits>

#include "calib/executor.h"
#include "calib/executor_plan.h"

namespace qtool {
namespace {

/// Keeps the gradient where x lies in the range that the codes reach, as if rounding were the identity.
Tensor straight_through(Tensor gradient, const Tensor& x, const QuantSpec& spec) {
  if (spec.is_bias || spec.dynamic || spec.scale.empty() || !spec.codes.empty()) return gradient;
  // The ends of the range, element by element, come from quantizing values beyond any range.
  Tensor ends(DType::f32, x.shape());
  auto e = ends.write<float>();
  std::fill(e.begin(), e.end(), std::numeric_limits<float>::max());
  const Tensor high = fake_quantize(ends, spec);
  e = ends.write<float>();
  std::fill(e.begin(), e.end(), std::numeric_limits<float>::lowest());
  const Tensor low = fake_quantize(ends, spec);
  // Integers: what rounds to the last code is still inside.
  const float half_step = spec.format->is_integer ? 0.5f / (spec.format->highest - spec.format->lowest) : 0.0f;
  const Tensor x32 = to_f32(x);
  const auto v = x32.read<float>(), h = high.read<float>(), l = low.read<float>();
  auto g = gradient.write<float>();
  for (std::size_t i = 0; i < g.size(); ++i) {
    const float slack = (h[i] - l[i]) * half_step;
    if (v[i] > h[i] + slack || v[i] < l[i] - slack) g[i] = 0;
  }
  return gradient;
}

void add_to(std::optional<Tensor>& sum, Tensor gradient) {
  if (!sum) {
    sum = std::move(gradient);
    return;
  }
  auto s = sum->write<float>();
  const auto g = gradient.read<float>();
  QTOOL_ENSURE(s.size() == g.size(), "gradients of one value have one size");
  for (std::size_t i = 0; i < s.size(); ++i) s[i] += g[i];
}

void widen(std::vector<Tensor>& tensors) {
  for (Tensor& t : tensors) {
    if (!t.empty() && is_float(t.dtype()) && t.dtype() != DType::f32) t = to_f32(t);
  }
}

}  // namespace

std::vector<Tensor> Executor::gradients(const Feeds& feeds, const Feeds& seeds, std::span<const ValueId> wanted) const {
  const Plan& plan = *plan_;
  std::vector<std::uint8_t> given;
  Slots slots = plan.start(feeds, given);
  std::vector<ValueId> ends(wanted.begin(), wanted.end());
  for (const auto& [v, seed] : seeds) ends.push_back(v);
  const Schedule schedule = plan.schedule(given, ends, Plan::Keep::raw);

  // A value needs a gradient when it is wanted or made from one that does.
  std::vector<std::uint8_t> needs(plan.graph.value_slots(), 0), marked(plan.graph.value_slots(), 0);
  for (const ValueId v : wanted) needs[index(v)] = marked[index(v)] = 1;
  for (const auto& [v, seed] : seeds) marked[index(v)] = 1;
  std::vector<std::unique_ptr<Record>> records(schedule.steps.size());
  for (std::size_t at = 0; at < schedule.steps.size(); ++at) {
    const PlanStep& step = plan.steps[schedule.steps[at]];
    if (step.def->backward == nullptr) continue;
    const bool on_path = std::any_of(step.inputs.begin(), step.inputs.end(), [&](const Operand& o) {
      return o.value != ValueId::none && needs[index(o.value)] != 0;
    });
    if (!on_path) continue;
    records[at] = std::make_unique<Record>();
    for (const ValueId v : step.node->outputs) {
      if (v != ValueId::none) needs[index(v)] = 1;
    }
  }

  std::vector<Shape> shapes(plan.graph.value_slots());
  const auto note = [&](ValueId v, const Tensor& t) {
    if (marked[index(v)] != 0) shapes[index(v)] = t.shape();
  };
  for (const ValueId v : ends) {
    if (given[index(v)] != 0) {
      note(v, *slots[index(v)]);
    } else {
      note(v, plan.constants[index(v)]);
    }
  }
  plan.execute(schedule, slots, note, records);

  std::vector<std::optional<Tensor>> sums(plan.graph.value_slots());
  for (const auto& [v, seed] : seeds) {
    if (seed.dtype() != DType::f32 || seed.shape() != shapes[index(v)]) {
      throw Error(Code::internal, "the gradient for \"" + plan.graph[v].name + "\" should be float32 of shape " +
                                      to_string(shapes[index(v)]) + ", not " + to_string(seed.shape()));
    }
    sums[index(v)] = seed;
  }
  for (std::size_t at = schedule.steps.size(); at-- > 0;) {
    const PlanStep& step = plan.steps[schedule.steps[at]];
    const std::unique_ptr<Record> record = std::move(records[at]);
    std::vector<Tensor> output_gradients;
    bool any = false;
    for (const ValueId v : step.node->outputs) {
      const bool there = v != ValueId::none && sums[index(v)].has_value();
      any = any || there;
      output_gradients.push_back(there ? *sums[index(v)] : Tensor());
      if (there && marked[index(v)] == 0) sums[index(v)].reset();
    }
    if (record == nullptr || !any) continue;
    std::vector<std::uint8_t> asked;
    for (std::size_t i = 0; i < step.inputs.size(); ++i) {
      const Operand& o = step.inputs[i];
      asked.push_back(o.value != ValueId::none && needs[index(o.value)] != 0 && is_float(record->inputs[i].dtype()));
    }
    widen(record->inputs);
    widen(record->outputs);
    std::vector<Tensor> input_gradients(step.inputs.size());
    try {
      BackwardContext ctx{*step.node,       step.opset,      record->inputs, record->outputs,
                          output_gradients, input_gradients, plan.threads,   asked};
      step.def->backward(ctx);
    } catch (const Error& e) {
      rethrow_at(e, plan.graph, *step.node);
    }
    for (std::size_t i = 0; i < step.inputs.size(); ++i) {
      if (asked[i] == 0 || input_gradients[i].empty()) continue;
      const Operand& o = step.inputs[i];
      Tensor gradient = std::move(input_gradients[i]);
      if (o.spec != nullptr) gradient = straight_through(std::move(gradient), record->raw[i], *o.spec);
      add_to(sums[index(o.value)], std::move(gradient));
    }
  }

  std::vector<Tensor> result;
  for (const ValueId v : wanted) {
    result.push_back(sums[index(v)] ? *sums[index(v)] : Tensor(DType::f32, shapes[index(v)]));
  }
  return result;
}

}  // namespace qtool

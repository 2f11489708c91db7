// SPDX-License-Identifier: Apache-2.0
// Executor::Plan: a graph laid out for running. Steps in topological order, operands resolved to slots of a table,
// constants quantized, one plan per body. A Schedule is the part of a plan that a set of wanted values needs, with
// the slots that can be let go of after each step. Private to the executor.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "calib/executor.h"
#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/ir/integer_group.h"
#include "formats/ir/quant.h"

namespace qtool {

using Slot = std::uint32_t;
/// A value, or a value as seen through a quant spec; empty until computed and after the last use.
using Slots = std::vector<std::optional<Tensor>>;

/// One operand of a step. Slots below Graph::value_slots() are values; those above hold what fake_quantize() makes
/// of a value, once for all consumers that share a spec.
struct Operand {
  ValueId value = ValueId::none;
  Slot slot = 0;
  const QuantSpec* spec = nullptr;  // null: as stored
  Tensor bias_scale;                // specs with is_bias: product of the scales of inputs 0 and 1
  Tensor fixed;                     // a constant as the operator sees it; a feed for the value overrides it
};

struct PlanStep {
  NodeId id = NodeId::none;
  const Node* node = nullptr;
  const OpDef* def = nullptr;
  std::int64_t opset = 0;
  std::vector<Operand> inputs, captured;
  std::vector<std::unique_ptr<const Executor::Plan>> bodies;
  std::unique_ptr<Prepared> prepared;   // null unless the operands behind the first one are constants
  const IntegerGroup* group = nullptr;  // what the step stands for; the step before makes the same value node by node
};

struct Schedule {
  std::vector<std::uint32_t> steps;
  std::vector<Slot> frees;                // of all steps, one after the other
  std::vector<std::uint32_t> frees_ends;  // per scheduled step: end of its part of `frees`
};

/// What a step saw and made, kept for the way back.
struct Record {
  std::vector<Tensor> raw, inputs, outputs;  // raw: operands before fake_quantize(), where there is a spec
};

struct Executor::Plan {
  Plan(const Graph&, Reading, Threads&);

  using Visit = Executor::Visit;
  /// What outlives its last use: nothing, the wanted values (to the end), or operands before fake_quantize() (to the
  /// last consumer of what it made).
  enum class Keep : std::uint8_t { nothing, wanted, raw };
  /// Steps between what is in `given` (by value: nonzero) and `wanted`. Error(Code::calibration) when a graph
  /// input without default is needed and not given.
  Schedule schedule(const std::vector<std::uint8_t>& given, std::span<const ValueId> wanted, Keep keep) const;
  /// Runs a schedule. `made` (may be null) is called with every value that a step makes; `records` (may be null) has
  /// one entry per scheduled step, and fills those that are not null.
  void execute(const Schedule&, Slots&, const Visit& made, std::span<const std::unique_ptr<Record>> records = {}) const;
  /// One step of it, that at place `at`.
  void execute(const Schedule&, std::size_t at, Slots&, const Visit& made, Record* record) const;
  /// The operand as its consumer sees it.
  static Tensor seen(const Operand&, const Tensor& raw);
  /// As a body: feeds for graph.inputs, outer values for graph.captures; the outputs as the graph declares them.
  std::vector<Tensor> call(std::vector<Tensor> feeds, std::span<const Tensor> outer) const;
  /// Checks feeds and lays them into slots; `given` becomes the mark of their values.
  Slots start(const Feeds&, std::vector<std::uint8_t>& given) const;
  /// The graph's outputs after the schedule `whole` ran.
  std::vector<Tensor> finish(Slots&) const;

  std::shared_ptr<const Graph> owned;  // with local functions replaced by their bodies; null: there were none
  const Graph& graph;
  Reading reading;
  Threads& threads;
  std::deque<IntegerGroup> groups;  // that run on codes
  std::vector<PlanStep> steps;
  std::vector<std::uint32_t> producer;  // by value: index of its step, or no_step
  std::vector<Tensor> constants;        // by value: initializers and outputs of Constant nodes
  std::vector<Operand> outputs;
  std::vector<ValueId> output_values;
  std::size_t slot_count = 0;
  Schedule whole;  // all inputs given, all outputs kept

  static constexpr std::uint32_t no_step = 0xffffffff;

 private:
  struct Building;
  Operand operand(const Use&, const Node* consumer, Building&);
  void quantize_constants(Building&);
  void add_step(NodeId, const Node&, const OpDef&, Building&);
  Tensor fetch(const Operand&, Slots&) const;
  std::vector<Tensor> run_step(const PlanStep&, Slots&, std::span<const Slot> dying, Record*) const;
};

/// Error with the node's name, operator and first output added.
[[noreturn]] void rethrow_at(const Error&, const Graph&, const Node&);

}  // namespace qtool

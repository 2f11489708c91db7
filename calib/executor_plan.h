// SPDX-License-Identifier: Apache-2.0
// Executor::Plan: a graph laid out for running. Steps in topological order, operands resolved to slots of a table,
// constants quantized, one plan per body. A Schedule is the part of a plan that a set of wanted values needs, with
// the slots that can be let go of after each step. Private to the executor.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "calib/executor.h"
#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/ir/quant.h"

namespace qtool {

using Slot = std::uint32_t;
/// A value, or a value as seen through a quant spec; empty until computed and after the last use.
using Slots = std::vector<std::optional<Tensor>>;

/// What an operand under a spec is: floats that went through fake_quantize(), or one of the three parts of codes.
enum class Form : std::uint8_t { floats, codes, scale, zero_point };

/// One operand of a step. Slots below Graph::value_slots() are values; those above hold what a spec makes of a value,
/// once for all consumers that share it. Codes, scale and zero point of dynamic specs lie in neighbouring slots.
struct Operand {
  ValueId value = ValueId::none;  // none: left out, or `fixed`
  Slot slot = 0;
  const QuantSpec* spec = nullptr;  // null: as stored
  Form form = Form::floats;
  Tensor bias_scale;  // specs with is_bias: product of the scales of inputs 0 and 1
  Tensor fixed;       // a constant as the operator sees it; a feed for the value overrides it
};

struct PlanStep {
  NodeId id = NodeId::none;
  const Node* node = nullptr;
  const OpDef* def = nullptr;
  std::int64_t opset = 0;
  std::vector<Operand> inputs, captured;
  std::vector<std::unique_ptr<const Executor::Plan>> bodies;
  std::vector<std::shared_ptr<Prepared>> prepared;  // by operand; empty: the operator has nothing to prepare
  // The step makes on codes what the step before, in the schedule instead of it where need be, makes on floats.
  bool on_codes = false;
  std::vector<ValueId> inside;  // values that it does without
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
  Plan(const Graph&, Reading, Threads&, bool keeps);

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
  const bool keeps;            // copies of constants that lie askew, from run to run
  std::deque<Node> own_nodes;  // nodes of steps on codes that the graph has not
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
  // Copies of constants that lie askew in their file: made when a step first reads them, shared as long as they are
  // held. Here they are held by value, where memory has room.
  mutable std::mutex aligned_mutex;
  mutable std::vector<Tensor> aligned;
  Operand operand(const Use&, Form, const Node* consumer, Building&);
  void add_codes(const Use&, const Node& consumer, Building&, std::vector<Operand>& to);
  void quantize_constants(Building&);
  void prepare();
  PlanStep& add_step(NodeId, const Node&, const OpDef&, Building&);
  bool add_step_on_codes(NodeId, const Node&, Building&);
  Tensor fetch(const Operand&, Slots&) const;
  void keep_aligned(ValueId, const Tensor&) const;
  void run_step(const PlanStep&, Slots&, std::span<const Slot> dying, Record*) const;
};

/// The operand as its consumer sees it.
Tensor seen(const Operand&, const Tensor& raw);
/// Whether scales are taken from what is quantized.
bool is_dynamic(const QuantSpec&);
/// Zero points in the type of the codes; empty: none.
Tensor zero_points(const QuantSpec&);

using RunBody = std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)>;
/// For operators that have none.
const RunBody& no_bodies();

/// Error with the node's name, operator and first output added.
[[noreturn]] void rethrow_at(const Error&, const Graph&, const Node&);

}  // namespace qtool

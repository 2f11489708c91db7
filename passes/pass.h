// SPDX-License-Identifier: Apache-2.0
// Pass: one transformation. It changes the graph or adds decisions, and reports nothing about itself: the pipeline
// compares before and after, holds it to its declared effect and records what it did. No global state, no state
// kept between runs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "calib/observe.h"
#include "formats/base/journal.h"
#include "formats/base/options.h"
#include "formats/base/rng.h"
#include "formats/base/stop.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "formats/target.h"
#include "passes/forecast.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// What a pass may change; checked after every run.
enum class Effect : std::uint8_t {
  measure,     // nothing
  equivalent,  // anything, but the reference reading gives the same outputs
  annotate,    // only Use::quant
  lossy,       // outputs too; inputs and outputs keep their names and types
};
std::string_view name_of(Effect);

struct PassContext {
  const Target& target;
  Calibration& calibration;
  Journal& journal;
  Threads& threads;
  const Rng& rng;
  std::span<const Rule> rules;  // the recipe's format wishes
  /// Nodes that the step's `where` selects; empty optional: all.
  std::optional<std::vector<NodeId>> selected;
  std::stop_token stop;
  Keeping keeping{};  // where results of long work go that other runs can use

  bool selects(NodeId) const;
  void check_stop() const;  // of `stop`
};

class Pass {
 public:
  virtual ~Pass() = default;
  virtual void options(Options&) {}
  /// Whether the knobs name what calibration data would tell: PassDef::needs_data does not hold then.
  virtual bool does_without_data() const { return false; }
  virtual void run(Graph&, PassContext&) = 0;
  /// What run() would make of the graph, told without reading weights (large ones are absent, formats/ir/absent.h) or
  /// running the model: what it would read and compute goes into the forecast. The same decisions as run(), made by the
  /// same code; numbers that only a run tells may be any. By default run() itself, for passes that look at shapes and
  /// small constants alone.
  virtual void plan(Graph& graph, PassContext& ctx, Forecast&) { run(graph, ctx); }
};

struct PassDef {
  std::string_view name, summary, paper;
  Effect effect;
  int revision;  // raise it when results change
  std::unique_ptr<Pass> (*make)();
  bool needs_data = false;     // without calibration data run() throws: asked before any work is done
  bool follows_rules = false;  // reads the recipe's rules; without such a step they would say nothing
  bool feeds_back = false;     // its codes make up for the errors of others, so that they are not the nearest ones
};

/// What a rule may say beside the knobs of the pass that follows it.
void declare_keep(Options&, std::string& keep);

template <class T>
std::unique_ptr<Pass> make_pass() {
  return std::make_unique<T>();
}

const PassDef* find_pass(std::string_view name);
std::span<const PassDef* const> passes();

namespace pass {
#define QTOOL_PASS(name) extern const PassDef name;
#include "passes/list.inc"
#undef QTOOL_PASS
}  // namespace pass

}  // namespace qtool

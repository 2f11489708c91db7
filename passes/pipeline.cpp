// SPDX-License-Identifier: Apache-2.0
#include "passes/pipeline.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <string>

#include "formats/base/error.h"
#include "formats/ir/verify.h"
#include "passes/changes.h"
#include "passes/checkpoint.h"
#include "passes/decisions.h"
#include "passes/probe.h"
#include "recipes/reader/bind.h"
#include "recipes/reader/where.h"

namespace qtool {
namespace {

[[noreturn]] void broken_promise(const BoundStep& step, const std::string& what) {
  throw Error(Code::internal, "declared as " + std::string(name_of(step.def->effect)) + ", but " + what,
              "this is a bug in qtool; leave the pass out of the recipe and report it");
}

/// "w4.yaml:12:7: gptq: "
std::string prefix(const BoundStep& step) {
  const std::string place = step.step.place.text();
  return (place.empty() ? "" : place + ": ") + std::string(step.def->name) + ": ";
}

/// Runs f; whatever it throws leaves as an Error that names the step.
template <class F>
void named(const BoundStep& step, const F& f) {
  try {
    f();
  } catch (const Error& e) {
    throw Error(e.code(), prefix(step) + e.what(), e.hint());
  } catch (const std::bad_alloc&) {
    throw Error(Code::no_fit, prefix(step) + "out of memory");
  } catch (const std::exception& e) {
    throw Error(Code::internal, prefix(step) + e.what());
  }
}

void hold_to(const BoundStep& step, const Graph& before, const Graph& after, const Changes& changes, Probe& probe,
             Journal& journal, Threads& threads) {
  try {
    verify(after);
  } catch (const Error& e) {
    broken_promise(step, std::string("it left a graph that is not well-formed: ") + e.what());
  }
  const Effect effect = step.def->effect;
  const std::string interface = interface_difference(before, after);
  if (!interface.empty()) broken_promise(step, "it changed " + interface);
  if (effect == Effect::measure || effect == Effect::annotate) {
    if (changes.reference()) broken_promise(step, changes.first);
  }
  if (effect == Effect::measure && changes.quants_changed != 0) {
    broken_promise(step, changes.first_quant + " was changed");
  }
  if (effect != Effect::equivalent || !changes.reference() || only_folded(before, after, threads)) return;
  if (const std::string& why = probe.unable(before); !why.empty()) {
    journal.warn(step.def->name, "its effect on the outputs was not checked, since the model did not run: " + why);
    return;
  }
  probe.require_runs(before);
  std::string difference;
  try {
    difference = probe.difference(before, after);
  } catch (const Error& e) {
    if (e.code() == Code::interrupted) throw;
    broken_promise(step, std::string("the model no longer runs: ") + e.what());
  }
  if (!difference.empty()) broken_promise(step, difference);
}

/// Wishes are bound again to each node that the rule selects; here a mistake costs no time.
void check_wishes(const Rule& rule, const PassDef& follower) {
  const std::unique_ptr<Pass> unused = follower.make();
  std::string keep;
  const auto declare = [&](Options& o) {
    declare_keep(o, keep);
    unused->options(o);
  };
  bind_knobs(rule.wishes, declare, "rule");
}

}  // namespace

std::vector<BoundStep> bind_steps(const Recipe& recipe) {
  std::vector<BoundStep> bound;
  for (const Step& step : recipe.steps) {
    const PassDef* def = find_pass(step.pass);
    if (def == nullptr) {
      std::vector<std::string> names;
      for (const PassDef* known : passes()) names.emplace_back(known->name);
      const std::string near = nearest(step.pass, names);
      const std::string place = step.place.text();
      throw Error(Code::usage, (place.empty() ? "" : place + ": ") + "there is no pass \"" + step.pass + "\"",
                  near.empty() ? "`qtool passes` lists all" : "did you mean \"" + near + "\"?");
    }
    BoundStep b{def, def->make(), step};
    bind_knobs(
        step.knobs, [&](Options& o) { b.pass->options(o); }, "step \"" + step.pass + "\"");
    bound.push_back(std::move(b));
  }
  const auto follows = [](const BoundStep& b) { return b.def->follows_rules; };
  if (!recipe.rules.empty() && std::none_of(bound.begin(), bound.end(), follows)) {
    throw Error(Code::usage, recipe.rules.front().place.text() + ": no step of the recipe follows its rules",
                "add assign_formats to the steps, or leave the rules out");
  }
  for (const BoundStep& b : bound) {
    if (!follows(b)) continue;
    for (const Rule& rule : recipe.rules) check_wishes(rule, *b.def);
  }
  return bound;
}

void run_steps(Graph& graph, std::vector<BoundStep>& steps, const Recipe& recipe, const Target& target,
               Calibration& calibration, Journal& journal, Threads& threads, const PipelineOptions& options) {
  const Rng probe_rng(options.seed, "probe");
  Probe probe(calibration, threads, probe_rng);
  Checkpoints checkpoints(options.keeping.kept, options.job, graph, steps, journal);
  const std::size_t first = checkpoints.resume(graph);
  for (std::size_t i = first; i < steps.size(); ++i) {
    BoundStep& step = steps[i];
    journal.progress({step.def->name, static_cast<std::int64_t>(i), static_cast<std::int64_t>(steps.size())});
    const auto start = std::chrono::steady_clock::now();
    const Rng rng(options.seed, step.def->name);
    const Graph before = graph;
    Changes changes;
    PassContext context{target,       calibration,  journal,      threads,        rng,
                        recipe.rules, std::nullopt, options.stop, options.keeping};
    context.check_stop();
    if (step.step.where) context.selected = select(graph, *step.step.where);
    named(step, [&] {
      step.pass->run(graph, context);
      changes = changes_between(before, graph);
      hold_to(step, before, graph, changes, probe, journal, threads);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    Json fact = Json::object();
    fact.set("pass", step.def->name).set("id", step.step.id).set("effect", name_of(step.def->effect));
    fact.set("nodes", static_cast<std::int64_t>(graph.nodes().size()));
    fact.set("changes", changes.json()).set("seconds", seconds.count());
    journal.fact("step", std::move(fact));
    Json decided = decided_between(before, graph, step.def->follows_rules ? recipe.rules : std::vector<Rule>());
    decided.set("step", step.step.id).set("pass", step.def->name).set("revision", step.def->revision);
    decided.set("knobs", fingerprint_knobs([&](Options& o) { step.pass->options(o); }));
    journal.fact("decided", std::move(decided));
    checkpoints.store(i + 1, graph);
  }
}

void plan_steps(Graph& graph, std::vector<BoundStep>& steps, const Recipe& recipe, const Target& target,
                Calibration& calibration, Journal& journal, Threads& threads, const PipelineOptions& options,
                Forecast& forecast) {
  for (BoundStep& step : steps) {
    const Rng rng(options.seed, step.def->name);
    const Graph before = graph;
    PassContext context{target, calibration, journal, threads, rng, recipe.rules, std::nullopt, options.stop};
    context.check_stop();
    if (step.step.where) context.selected = select(graph, *step.step.where);
    named(step, [&] { step.pass->plan(graph, context, forecast); });
    if (step.def->effect != Effect::equivalent || !changes_between(before, graph).reference()) continue;
    if (folded_between(before, graph)) continue;
    // The probe: this graph on one batch, and the first time the one before it; without data, whether that runs at all.
    const bool first =
        std::none_of(forecast.sweeps.begin(), forecast.sweeps.end(), [](const auto& s) { return s.pass == "probe"; });
    const std::int64_t times = !first ? 1 : calibration.has_data() ? 2 : 3;
    forecast.sweeps.push_back({"probe", graph, Reading::reference, 1, times, {}, {}});
  }
}

}  // namespace qtool

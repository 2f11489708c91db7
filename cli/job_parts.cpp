// SPDX-License-Identifier: Apache-2.0
#include "cli/job_parts.h"

#include <algorithm>
#include <utility>

#include "calib/op.h"
#include "cli/data_options.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "recipes/reader/bind.h"
#include "recipes/reader/where.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

/// The recipe's own emit options, where --set gives no others. For another target than the recipe was written for,
/// those that it does not have mean nothing.
void add_emit(JobSetup& setup, const Settings& own, bool same_target) {
  const Json known = describe_knobs([&](Options& o) { setup.emitter->options(o); });
  const auto in = [](const auto& list, const auto& matches) { return std::any_of(list.begin(), list.end(), matches); };
  for (const NamedSetting& option : own) {
    const bool set = in(setup.recipe.emit, [&](const NamedSetting& other) { return other.name == option.name; });
    const bool has =
        in(known.as_array(), [&](const Json& knob) { return knob.find("name")->as_string() == option.name; });
    if (!set && (same_target || has)) setup.recipe.emit.push_back(option);
  }
}

/// What `change` makes of the graph, with shapes where none are declared: how operators are rewritten can depend on
/// them. Declarations are afterwards what they were, so that the file gets none that the input did not have.
template <class F>
Graph with_known_shapes(const Graph& graph, const F& change) {
  Graph inferred = graph, typed = graph;
  infer_types(inferred);
  std::vector<ValueId> open;
  for (const ValueId v : graph.values()) {
    if (graph[v].type.known_rank || !inferred[v].type.known_rank) continue;
    typed[v].type = inferred[v].type;
    open.push_back(v);
  }
  Graph result = change(typed);
  for (const ValueId v : open) {
    if (result.alive(v) && result[v].type.shape == typed[v].type.shape) result[v].type = graph[v].type;
  }
  return result;
}

void set_metadata(ModelInfo& info, const std::string& key, const std::string& value) {
  for (auto& [name, old] : info.metadata) {
    if (name == key) {
      old = value;
      return;
    }
  }
  info.metadata.emplace_back(key, value);
}

}  // namespace

JobSetup set_up_job(const std::string& recipe, const std::vector<std::string>& set, const std::string& target) {
  JobSetup setup;
  setup.recipe = load_recipe(recipe);
  const std::string own_target = setup.recipe.target;
  const Settings own_emit = std::exchange(setup.recipe.emit, {});
  for (const std::string& assignment : set) set_knob(setup.recipe, assignment);
  if (!target.empty()) setup.recipe.target = target;
  setup.backend = &backend_named(setup.recipe.target);
  setup.emitter = setup.backend->make();
  add_emit(setup, own_emit, setup.recipe.target == own_target);
  bind_knobs(
      setup.recipe.emit, [&](Options& o) { setup.emitter->options(o); }, "\"emit\"");
  setup.steps = bind_steps(setup.recipe);
  setup.calib = read_data_options(setup.recipe.data, "data");
  setup.eval = read_data_options(setup.recipe.eval, "eval");
  return setup;
}

JobSetup set_up_job(const JobRequest& request) {
  JobSetup setup = set_up_job(request.recipe, request.set, request.target);
  if (!request.calib.empty()) setup.calib.path = request.calib;
  if (!request.eval.empty()) setup.eval.path = request.eval;
  setup.output = request.output;
  if (setup.output.empty()) setup.output = request.model.stem().string() + "." + setup.recipe.name + ".onnx";
  return setup;
}

void require_data(const JobRequest& request, JobSetup& setup) {
  const Gate& gate = setup.recipe.gate;
  if (gate.needs_data() && !has_data(setup.eval)) {
    throw Error(Code::usage, gate.place.text() + ": the gate is measured on held-out data, and there are none",
                "name them with --eval or in the recipe's `eval:`");
  }
  if (!request.ratchet.empty()) {
    if (!has_data(setup.eval)) {
      throw Error(Code::usage, "--ratchet compares figures of held-out data, and there are none",
                  "name them with --eval or in the recipe's `eval:`");
    }
    setup.ratchet.emplace(request.ratchet);
  }
  for (const BoundStep& step : setup.steps) {
    if (!step.needs_data() || has_data(setup.calib)) continue;
    throw Error(Code::calibration,
                step.step.place.text() + ": " + std::string(step.def->name) + " measures on data, and there are none",
                "name calibration data with --calib or in the recipe's `data:`");
  }
}

void keep_what_selects(JobSetup& setup, const Graph& part) {
  const auto selects_nothing = [&](const Where& where) {
    try {
      return select(part, where).empty();
    } catch (const Error& e) {
      if (e.code() != Code::usage) throw;
      return true;
    }
  };
  std::erase_if(setup.recipe.rules, [&](const Rule& rule) { return selects_nothing(rule.where); });
  std::erase_if(setup.steps, [&](const BoundStep& b) { return b.step.where && selects_nothing(*b.step.where); });
}

void fit_versions(Graph& graph, const Target& target) {
  if (target.max_opset > 0 && graph.opset() > target.max_opset) {
    graph = with_known_shapes(graph, [&](Graph typed) {
      convert_opset(typed, target.max_opset);
      return typed;
    });
  }
  if (target.max_ir > 0 && graph.model->ir_version > target.max_ir) {
    ModelInfo info = *graph.model;
    info.ir_version = target.max_ir;
    graph.model = std::make_shared<const ModelInfo>(std::move(info));
  }
}

Graph lower(const Graph& decided, Emitter& emitter, const Target& target, Journal& journal) {
  return with_known_shapes(decided, [&](const Graph& typed) { return emitter.lower(typed, target, journal); });
}

void sign(Graph& graph, const Provenance& from) {
  ModelInfo info = *graph.model;
  set_metadata(info, "qtool.version", QTOOL_VERSION);
  set_metadata(info, "qtool.model_sha256", from.model_sha256);
  set_metadata(info, "qtool.recipe_sha256", from.recipe_sha256);
  set_metadata(info, "qtool.lock_sha256", from.lock_sha256);
  if (!from.calibration_sha256.empty()) set_metadata(info, "qtool.calibration_sha256", from.calibration_sha256);
  if (from.calibration && from.calibration->synthetic()) set_metadata(info, "qtool.calibration", "synthetic");
  graph.model = std::make_shared<const ModelInfo>(std::move(info));
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/locking.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "cli/lock_constants.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/ir/quant.h"
#include "passes/pass.h"

namespace qtool {
namespace {

using UseKey = std::pair<std::string, int>;  // node and input

/// What the steps say that they decided.
struct Decided {
  std::map<UseKey, std::vector<std::string>> steps;
  std::map<std::string, int> rules;  // by node
  std::set<std::string> fed_back;    // steps whose codes are not the nearest ones
};

UseKey key_in(const Json& pair) {
  return {pair.as_array().at(0).as_string(), static_cast<int>(pair.as_array().at(1).as_integer())};
}

/// Reads the journal into the lock: folds belong to the step whose "decided" comes next.
Decided read_facts(const std::vector<Json>& facts, Lock& lock) {
  Decided all;
  std::size_t open = 0;  // folds whose step is told
  for (const Json& fact : facts) {
    const std::string kind = text_in(fact, "kind");
    if (kind == "skip") lock.floats.push_back({text_in(fact, "node"), text_in(fact, "pass"), text_in(fact, "why")});
    if (kind == "fold") lock.folds.push_back(fact);
    if (kind != "decided") continue;
    const std::string step = text_in(fact, "step");
    const PassDef* pass = find_pass(text_in(fact, "pass"));
    if (pass != nullptr && pass->feeds_back) all.fed_back.insert(step);
    lock.steps.push_back(
        {step, text_in(fact, "pass"), static_cast<int>(fact.find("revision")->as_integer()), text_in(fact, "knobs")});
    for (; open < lock.folds.size(); ++open) {
      Json row = Json::object();
      row.set("step", step);
      for (const auto& [name, value] : lock.folds[open].as_object()) {
        if (name != "kind") row.set(name, value);
      }
      lock.folds[open] = std::move(row);
    }
    for (const Json& c : fact.find("constants")->as_array()) {
      lock.constants.push_back({step, text_in(c, "name"), text_in(c, "was"), text_in(c, "is")});
    }
    for (const Json& use : fact.find("uses")->as_array()) all.steps[key_in(use)].push_back(step);
    for (const Json& rule : fact.find("rules")->as_array()) all.rules.insert(key_in(rule));
  }
  return all;
}

LockedUse row_of(const Graph& graph, const std::string& node, int input, const Use& use) {
  const QuantSpec& spec = *use.quant;
  LockedUse row;
  row.node = node;
  row.input = input;
  row.tensor = graph[use.value].name;
  row.format = spec.is_bias ? "int32" : std::string(spec.format->name);
  if (spec.scale_format) row.scale_format = spec.scale_format->name;
  if (spec.alternative) row.alternative = spec.alternative->name;
  row.grain = spec.grain;
  row.symmetric = spec.symmetric;
  row.narrow = spec.narrow;
  row.dynamic = spec.dynamic;
  row.is_bias = spec.is_bias;
  add_numbers(row, spec);
  if (!spec.ranges.empty()) row.range_axis = spec.range_axis;
  for (const IndexRange& r : spec.ranges) {
    LockedRange range{r.begin, r.end, r.quant ? std::string(r.quant->format->name) : "", {}, {}, {}};
    if (r.quant) range.scale = numbers_of(r.quant->scale), range.zero_point = numbers_of(r.quant->zero_point);
    row.ranges.push_back(std::move(range));
  }
  return row;
}

/// Every use with a decision, constants with their codes.
void add_uses(Lock& lock, const Graph& graph, const Decided& decided, const LayerInputs& inputs, Threads& threads) {
  std::vector<std::pair<const Use*, const Node*>> uses;
  const auto add = [&](const std::string& node, int input, const Use& use, const Node* reader) {
    if (!use.quant || use.value == ValueId::none) return;
    LockedUse row = row_of(graph, node, input, use);
    if (const auto steps = decided.steps.find({node, input}); steps != decided.steps.end()) row.steps = steps->second;
    row.fed_back = !row.steps.empty() && decided.fed_back.contains(row.steps.back());
    if (const auto rule = decided.rules.find(node); rule != decided.rules.end()) row.rule = rule->second;
    lock.uses.push_back(std::move(row));
    uses.emplace_back(&use, reader);
  };
  for (const NodeId id : graph.order()) {
    const std::string node(label_of(graph, id));
    const Node& n = graph[id];
    for (std::size_t i = 0; i < n.inputs.size(); ++i) add(node, static_cast<int>(i), n.inputs[i], &n);
    for (std::size_t i = 0; i < n.captured.size(); ++i) add(node, -1 - static_cast<int>(i), n.captured[i], &n);
  }
  for (std::size_t i = 0; i < graph.outputs.size(); ++i) add("", static_cast<int>(i), graph.outputs[i], nullptr);
  const OutputErrors outputs(inputs, lock.folds, threads);
  std::vector<std::size_t> constants;  // the largest first, so that none is left over at the end
  for (std::size_t i = 0; i < uses.size(); ++i) {
    if (graph.is_constant(uses[i].first->value)) constants.push_back(i);
  }
  const auto size = [&](std::size_t i) { return graph[uses[i].first->value].data.size_bytes(); };
  std::stable_sort(constants.begin(), constants.end(), [&](auto a, auto b) { return size(a) > size(b); });
  threads.for_each(static_cast<std::int64_t>(constants.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      const std::size_t i = constants[static_cast<std::size_t>(c)];
      const auto& [use, reader] = uses[i];
      add_constant(lock.uses[i], *use->quant, graph[use->value].data, reader, outputs);
    }
  });
}

/// The errors of what nodes with a decision put out.
void add_layers(Lock& lock, const Graph& graph, const LayerErrors& layers) {
  const std::map<std::string, double> error(layers.begin(), layers.end());
  std::set<std::string> decided;
  for (const LockedUse& use : lock.uses) decided.insert(use.node);
  for (const NodeId id : graph.order()) {
    const std::string node(label_of(graph, id));
    if (!decided.contains(node)) continue;
    for (const ValueId v : graph[id].outputs) {
      const auto found = v == ValueId::none ? error.end() : error.find(graph[v].name);
      if (found == error.end() || !std::isfinite(found->second)) continue;
      lock.layers.push_back({node, found->first, rounded_db(found->second)});
    }
  }
}

std::string words_for(const LockedUse& use) {
  const std::string place = use.node.empty() ? "output " + std::to_string(use.input)
                            : use.input >= 0 ? use.node + " input " + std::to_string(use.input)
                                             : use.node + " captured value " + std::to_string(-1 - use.input);
  return place + " (" + use.tensor + ")";
}

/// Names of the members in which two rows differ, without those that are measured.
std::string members_that_differ(const Json& a, const Json& b) {
  std::string names;
  std::set<std::string> seen;
  for (const Json* row : {&a, &b}) {
    for (const auto& [name, value] : row->as_object()) {
      if (name == "sqnr_db" || name == "output_db" || name == "tensor" || !seen.insert(name).second) continue;
      const Json *x = a.find(name), *y = b.find(name);
      if (x && y && *x == *y) continue;
      const bool small = x && y && !x->is_object() && !y->is_object() && x->dump().size() + y->dump().size() < 48;
      const std::string shown = name == "codes_sha256" ? "codes" : name == "float_sha256" ? "float weights" : name;
      const bool hash = shown != name;
      names += (names.empty() ? "" : ", ") + shown + (small && !hash ? " " + x->dump() + " -> " + y->dump() : "");
    }
  }
  return names;
}

template <class Row, class Key, class Name, class Compare>
void compare_rows(const std::vector<Row>& locked, const std::vector<Row>& now, const Key& key, const Name& name,
                  const Compare& compare, std::vector<std::string>& told) {
  std::map<std::decay_t<decltype(key(locked[0]))>, const Row*> known;
  for (const Row& row : now) known.try_emplace(key(row), &row);
  std::set<std::decay_t<decltype(key(locked[0]))>> seen;
  for (const Row& row : locked) {
    seen.insert(key(row));
    const auto found = known.find(key(row));
    if (found == known.end()) {
      told.push_back(name(row) + ": no longer there");
    } else if (const std::string what = compare(row, *found->second); !what.empty()) {
      told.push_back(name(row) + ": " + what);
    }
  }
  for (const Row& row : now) {
    if (!seen.contains(key(row))) told.push_back(name(row) + ": new");
  }
}

std::string name_of_fold(const Json& fold) {
  const std::string node = text_in(fold, "node"), into = text_in(fold, "into");
  return "fold of " + text_in(fold, "step") + (node.empty() ? "" : " at " + node) +
         (into.empty() ? "" : " into " + into);
}

}  // namespace

Lock lock_of(const Graph& graph, const std::vector<Json>& facts, const JobSetup& setup, std::uint64_t seed,
             const Provenance& from, const LayerErrors& layers, const LayerInputs& inputs, Threads& threads) {
  Lock lock;
  lock.qtool = QTOOL_VERSION;
  lock.model_sha256 = from.model_sha256;
  lock.recipe_sha256 = from.recipe_sha256;
  lock.calibration_sha256 = from.calibration_sha256;
  lock.target = setup.recipe.target;
  lock.seed = seed;
  const Decided decided = read_facts(facts, lock);
  add_uses(lock, graph, decided, inputs, threads);
  if (!inputs.empty()) lock.outputs_sha256 = from.calibration_sha256;
  const auto measures = [](const BoundStep& step) { return step.needs_data(); };
  if (std::any_of(setup.steps.begin(), setup.steps.end(), measures)) add_layers(lock, graph, layers);
  return lock;
}

std::set<std::string, std::less<>> products_with_codes(const Graph& decided) {
  std::set<std::string, std::less<>> names;
  for (const NodeId id : decided.nodes()) {
    const Node& n = decided[id];
    if (n.inputs.size() > 1 && n.inputs[1].quant && decided.is_constant(n.inputs[1].value)) {
      names.emplace(label_of(decided, id));
    }
  }
  return names;
}

std::string write_lock(const Lock& lock, const std::filesystem::path& file) {
  const std::string text = lock.text();
  OutputFile out(file);
  out.write(text);
  out.publish(Sync::later);
  return hex(Hasher().bytes(std::as_bytes(std::span(text))).finish());
}

std::vector<std::string> lock_differences(const Lock& locked, const Lock& now) {
  std::vector<std::string> told;
  const auto differ = [&](const std::string& a, const std::string& b, const char* what) {
    if (a != b) told.emplace_back(what);
  };
  differ(locked.model_sha256, now.model_sha256, "the model is another");
  differ(locked.recipe_sha256, now.recipe_sha256, "the recipe is another");
  differ(locked.calibration_sha256, now.calibration_sha256, "the calibration data are others");
  differ(locked.target, now.target, "the target is another");
  if (locked.seed != now.seed) told.emplace_back("the seed is another");
  compare_rows(
      locked.steps, now.steps, [](const LockedStep& s) { return s.id; },
      [](const LockedStep& s) { return "step " + s.id; },
      [](const LockedStep& a, const LockedStep& b) {
        std::string what;
        if (a.pass != b.pass) what += "pass " + a.pass + " -> " + b.pass;
        if (a.revision != b.revision) {
          what += (what.empty() ? "" : ", ") + ("revision " + std::to_string(a.revision)) + " -> " +
                  std::to_string(b.revision);
        }
        if (a.knobs != b.knobs)
          what += (what.empty() ? "" : ", ") + ("knobs \"" + a.knobs) + "\" -> \"" + b.knobs + "\"";
        return what;
      },
      told);
  compare_rows(
      locked.folds, now.folds, [](const Json& f) { return name_of_fold(f); }, name_of_fold, members_that_differ, told);
  compare_rows(
      locked.uses, now.uses, [](const LockedUse& u) { return UseKey(u.node, u.input); }, words_for,
      [](const LockedUse& a, const LockedUse& b) { return members_that_differ(json_of(a), json_of(b)); }, told);
  compare_rows(
      locked.constants, now.constants, [](const LockedConstant& c) { return std::pair(c.step, c.name); },
      [](const LockedConstant& c) { return "constant " + c.name + " of " + c.step; },
      [](const LockedConstant& a, const LockedConstant& b) {
        return std::string(a.is == b.is ? "" : "other elements");
      },
      told);
  return told;
}

Lock held_to(const Lock& locked, Lock now, const std::filesystem::path& file) {
  constexpr std::size_t shown = 5;
  const std::vector<std::string> told = lock_differences(locked, now);
  if (told.empty()) return locked.qtool == now.qtool ? locked : std::move(now);
  std::string text;
  for (std::size_t i = 0; i < std::min(shown, told.size()); ++i) text += (i > 0 ? "; " : "") + told[i];
  if (told.size() > shown) text += "; and " + std::to_string(told.size() - shown) + " more";
  throw Error(Code::input, "the run came to other decisions than " + file.string() + ": " + text,
              "without --locked a new model and a new lock are written");
}

}  // namespace qtool

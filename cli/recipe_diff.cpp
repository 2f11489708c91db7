// SPDX-License-Identifier: Apache-2.0
#include "cli/recipe_diff.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "cli/data_options.h"
#include "cli/text.h"
#include "formats/schema.h"
#include "recipes/reader/bind.h"
#include "recipes/reader/keys.h"

namespace qtool {
namespace {

using Entries = std::vector<RecipeEntry>;

Json words_json(const std::vector<std::string>& words) {
  Json list = Json::array();
  for (const std::string& word : words) list.push(word);
  return list;
}

Json where_json(const Where& where) {
  Json json = Json::object();
  for (const auto& [name, words] :
       {std::pair{"op", &where.op}, std::pair{"name", &where.name}, std::pair{"not_op", &where.not_op},
        std::pair{"not_name", &where.not_name}, std::pair{"region", &where.region}}) {
    if (!words->empty()) json.set(name, words_json(*words));
  }
  if (where.min_size > 0) json.set("min_size", where.min_size);
  if (where.max_size > 0) json.set("max_size", where.max_size);
  return json;
}

/// Every declared knob with its value, as describe_knobs tells it.
void add_knobs(Entries& all, const std::string& section, const Json& knobs) {
  for (const Json& knob : knobs.as_array()) {
    all.push_back({section, knob.find("name")->as_string(), *knob.find("default")});
  }
}

/// Declared keys with their defaults, and over them what is written.
void add_section(Entries& all, const std::string& section, const std::string& prefix, const Json& declared,
                 const Settings& written) {
  for (const Json& knob : declared.as_array()) {
    const std::string& name = knob.find("name")->as_string();
    const auto own = std::find_if(written.begin(), written.end(), [&](const auto& s) { return s.name == name; });
    if (name == "image") {
      const auto* map = own == written.end() ? nullptr : std::get_if<Settings>(&own->setting.value);
      add_section(all, section, "image.", describe_image(), map ? *map : Settings());
      continue;
    }
    Json value = own == written.end() ? *knob.find("default") : own->setting.json();
    if (value.is_array() && value.as_array().empty()) value = Json();
    all.push_back({section, prefix + name, std::move(value)});
  }
}

bool same(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.as_number() == b.as_number();
  return a == b;
}

std::string shown(const Json& value) {
  return value.is_null() ? "-" : value.is_string() ? value.as_string() : value.dump();
}

/// Ids of the steps of `a` that `b` has too, in the order of `a`.
Json order_of(const JobSetup& a, const JobSetup& b) {
  Json ids = Json::array();
  for (const BoundStep& step : a.steps) {
    const auto same_id = [&](const BoundStep& other) { return other.step.id == step.step.id; };
    if (std::any_of(b.steps.begin(), b.steps.end(), same_id)) ids.push(step.step.id);
  }
  return ids;
}

}  // namespace

std::vector<RecipeEntry> entries_of(const JobSetup& setup) {
  const Recipe& recipe = setup.recipe;
  Entries all{{"target", "", recipe.target}};
  for (const BoundStep& step : setup.steps) {
    const std::string section = "step " + step.step.id;
    all.push_back({section, "pass", step.def->name});
    if (step.step.where) all.push_back({section, "where", where_json(*step.step.where)});
    add_knobs(all, section, describe_knobs([&](Options& o) { step.pass->options(o); }));
  }
  int place = 0;
  for (const Rule& rule : recipe.rules) {
    const std::string section = "rule " + std::to_string(++place);
    all.push_back({section, "where", where_json(rule.where)});
    for (const auto& [name, wish] : rule.wishes) all.push_back({section, name, wish.json()});
  }
  add_section(all, "data", "", describe_data(), recipe.data);
  add_section(all, "eval", "", describe_data(), recipe.eval);
  add_knobs(all, "emit", describe_knobs([&](Options& o) { setup.emitter->options(o); }));
  add_section(all, "gate", "", describe_gate(), recipe.gate.settings);
  return all;
}

Json recipe_difference(const JobSetup& a, const JobSetup& b) {
  const Entries left = entries_of(a), right = entries_of(b);
  Json rows = Json::array();
  const auto tell = [&](const RecipeEntry& entry, Json x, Json y) {
    Json row = Json::object();
    row.set("section", entry.section).set("key", entry.key).set("a", std::move(x)).set("b", std::move(y));
    rows.push(std::move(row));
  };
  const auto find = [](const Entries& in, const RecipeEntry& entry) {
    return std::find_if(in.begin(), in.end(),
                        [&](const RecipeEntry& e) { return e.section == entry.section && e.key == entry.key; });
  };
  const auto has_section = [](const Entries& in, const std::string& section) {
    return std::any_of(in.begin(), in.end(), [&](const RecipeEntry& e) { return e.section == section; });
  };
  std::set<std::string> told;  // steps and rules that only one has: one row each
  for (const RecipeEntry& entry : left) {
    const auto other = find(right, entry);
    if (other != right.end()) {
      if (!same(entry.value, other->value)) tell(entry, entry.value, other->value);
    } else if (has_section(right, entry.section) || told.insert(entry.section).second) {
      tell(entry, entry.value, Json());
    }
  }
  for (const RecipeEntry& entry : right) {
    if (find(left, entry) != left.end()) continue;
    if (has_section(left, entry.section) || told.insert(entry.section).second) tell(entry, Json(), entry.value);
  }
  if (const Json x = order_of(a, b), y = order_of(b, a); x != y) tell({"steps", "order", {}}, x, y);
  Json json = Json::object();
  json.set("schema", schema::recipe_diff).set("equal", rows.as_array().empty());
  return json.set("differences", std::move(rows));
}

std::string recipe_difference_text(const Json& difference) {
  Table table({"section", "key", "A", "B"});
  table.left(1).left(2).left(3);
  for (const Json& row : difference.find("differences")->as_array()) {
    table.row(
        {row.find("section")->as_string(), row.find("key")->as_string(), shown(*row.find("a")), shown(*row.find("b"))});
  }
  return table.empty() ? "" : table.text();
}

}  // namespace qtool

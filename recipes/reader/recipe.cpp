// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/recipe.h"

#include <algorithm>
#include <array>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "recipes/reader/bind.h"
#include "recipes/reader/keys.h"
#include "recipes/reader/where.h"
#include "recipes/reader/yaml.h"

namespace qtool {
namespace {

using List = std::vector<Setting>;

const List& as_list(const Setting& setting, const std::string& what) {
  if (const auto* list = std::get_if<List>(&setting.value)) return *list;
  fail_at(setting.place, what + " must be a list (lines that start with \"- \"), not " + describe(setting));
}

/// A word: letters, digits, '_', '-'. What --set and messages can name.
const std::string& as_word(const Setting& setting, const std::string& what) {
  if (!std::holds_alternative<std::string>(setting.value) || setting.null()) {
    fail_at(setting.place, what + " must be a word, not " + describe(setting));
  }
  const std::string& text = setting.scalar();
  const auto legal = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  if (text.empty() || text.size() > 100 || !std::all_of(text.begin(), text.end(), legal)) {
    fail_at(setting.place, what + " must be a word of letters, digits, '_' and '-', not " + describe(setting));
  }
  return text;
}

void check_glob(const Setting& setting) {
  const std::string& pattern = setting.scalar();
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '[') continue;
    const std::size_t end = pattern.find(']', i + 2);
    if (end == std::string::npos) {
      fail_at(setting.place, "the pattern \"" + pattern + "\" has a '[' without ']'", "write [[] for a plain '['");
    }
    i = end;
  }
}

void check_region(const Setting& setting) {
  const std::string& region = setting.scalar();
  if (region == "first" || region == "last") return;
  if ((region.starts_with("after:") && region.size() > 6) || (region.starts_with("before:") && region.size() > 7))
    return;
  fail_at(setting.place, "unknown region \"" + region + "\"" + did_you_mean(region, {"first", "last"}),
          "regions: first, last, after:NAME, before:NAME");
}

void for_each_item(const Setting& setting, void (*check)(const Setting&)) {
  if (const auto* list = std::get_if<List>(&setting.value)) {
    if (list->empty()) fail_at(setting.place, "an empty list selects nothing", "leave the key out");
    std::for_each(list->begin(), list->end(), check);
  } else if (std::holds_alternative<std::string>(setting.value)) {
    check(setting);
  }
}

void declare_where(Options& o, Where& where) {
  constexpr double most = 9007199254740992.0;  // 2^53: whole numbers are exact below
  o("op", where.op, "operators: Conv, com.microsoft.MatMulNBits, Reduce*");
  o("name", where.name, "node names");
  o("not_op", where.not_op, "operators left out");
  o("not_name", where.not_name, "node names left out");
  o("region", where.region, "first, last, after:NAME, before:NAME");
  o("min_size", where.min_size, "elements of the largest constant input, at least", 0, most);
  o("max_size", where.max_size, "elements of the largest constant input, at most; 0: no bound", 0, most);
}

Where read_where(const Setting& setting) {
  Where where;
  where.place = setting.place;
  const Settings& map = as_map(setting, "\"where\"");
  bind_knobs(
      map, [&](Options& o) { declare_where(o, where); }, "\"where\"");
  if (map.empty()) fail_at(setting.place, "\"where\" has no condition", "for all nodes leave it out");
  for (const auto& [name, item] : map) {
    if (name == "region") {
      for_each_item(item, check_region);
    } else if (name != "min_size" && name != "max_size") {
      for_each_item(item, check_glob);
    }
  }
  if (where.max_size != 0 && where.min_size > where.max_size) {
    fail_at(setting.place, "\"min_size\" is above \"max_size\": nothing can match");
  }
  return where;
}

Settings read_knobs(const Setting& setting, const std::string& what) {
  if (setting.null()) return {};
  return as_map(setting, what);
}

Step read_step(const Setting& setting) {
  Step step;
  step.place = setting.place;
  if (std::holds_alternative<std::string>(setting.value) && !setting.null()) {
    step.pass = as_word(setting, "a step");
    return step;
  }
  const Settings& map = as_map(setting, "a step");
  const Setting* named = nullptr;
  for (const auto& [name, item] : map) {
    if (name == "where") {
      step.where = read_where(item);
    } else if (name == "id") {
      step.id = as_word(item, "\"id\"");
    } else if (named) {
      // Two names: one of them is a misspelt key, or the second step lacks its dash.
      const std::string near = did_you_mean(name, {"where", "id"});
      fail_at(item.key,
              near.empty() ? "a step names one pass, but this one names \"" + step.pass + "\" and \"" + name + "\""
                           : "unknown key \"" + name + "\" in step \"" + step.pass + "\"" + near,
              "start each step with \"- \"; beside the pass a step takes `where` and `id`");
    } else {
      step.pass = name;
      step.place = item.key;
      step.knobs = read_knobs(item, "step \"" + name + "\"");
      named = &item;
    }
  }
  if (!named) fail_at(setting.place, "this step names no pass", "write \"- PASS\" or \"- PASS: {KEY: VALUE}\"");
  return step;
}

Rule read_rule(const Setting& setting) {
  Rule rule;
  rule.place = setting.place;
  bool selects = false;
  for (const auto& item : as_map(setting, "a rule")) {
    if (item.name == "where") {
      rule.where = read_where(item.setting);
      selects = true;
    } else {
      rule.wishes.push_back(item);
    }
  }
  if (!selects) fail_at(setting.place, "a rule needs `where`", "for all nodes write where: {name: \"*\"}");
  if (rule.wishes.empty())
    fail_at(setting.place, "a rule needs a wish", "for example `keep: float` or `weights: int8`");
  return rule;
}

/// Ids: the pass name where none is given, numbered where that is taken.
void name_steps(std::vector<Step>& steps) {
  std::vector<std::string> taken;
  const auto is_taken = [&](const std::string& id) { return std::find(taken.begin(), taken.end(), id) != taken.end(); };
  for (const Step& step : steps) {
    if (step.id.empty()) continue;
    if (is_taken(step.id)) fail_at(step.place, "two steps have the id \"" + step.id + "\"");
    for (const char* reserved : {"data", "eval", "emit", "gate", "target"}) {
      if (step.id == reserved) fail_at(step.place, "\"" + step.id + "\" cannot be the id of a step: it is a section");
    }
    taken.push_back(step.id);
  }
  for (Step& step : steps) {
    if (!step.id.empty()) continue;
    step.id = step.pass;
    for (int n = 2; is_taken(step.id); ++n) step.id = step.pass + "_" + std::to_string(n);
    taken.push_back(step.id);
  }
}

void read_version(const Setting& setting) {
  const auto version = yaml_integer(setting);
  if (!version) fail_at(setting.place, "\"version\" must be a whole number, not " + describe(setting));
  if (*version != 1) {
    fail_at(setting.place, "recipe version " + std::to_string(*version) + " is not known; this qtool reads version 1",
            *version > 1 ? "use the qtool that it was written for, or a later one" : "the first version is 1");
  }
}

}  // namespace

std::span<const RecipeKey> recipe_keys() {
  static constexpr std::array<RecipeKey, 10> keys{{
      {"version", "1, the version of the recipe language", true},
      {"name", "a word, for the name of the output file; without it the name of the recipe's file", false},
      {"summary", "one line for `qtool recipe list`", false},
      {"target", "the runtime to quantize for; `--target` goes before it, and one of the two is needed", false},
      {"data", "calibration data; `--calib` goes before its `path`", false},
      {"eval", "held-out data that the result is measured on; `--eval` goes before its `path`", false},
      {"steps", "the passes, in the order in which they run", true},
      {"rules", "what some nodes shall have instead of what the steps say; the first match wins", false},
      {"emit", "how decisions are written", false},
      {"gate", "limits; a model that misses one is not written, and the exit code is 3", false},
  }};
  return keys;
}

Json describe_where() {
  Where where;
  return describe_knobs([&](Options& o) { declare_where(o, where); });
}

Recipe parse_recipe(std::string_view yaml, const std::string& source) {
  const Setting root = parse_yaml(yaml, source);
  if (root.null()) fail_at({source, 0, 0}, "the recipe is empty", "`qtool recipe show int8_static` prints one");
  Recipe recipe;
  recipe.source = yaml;
  const std::filesystem::path path(source);
  recipe.name = path.stem().string();
  bool has_version = false, has_steps = false;
  for (const auto& [name, item] : as_map(root, "a recipe")) {
    if (name == "version") {
      read_version(item);
      has_version = true;
    } else if (name == "name") {
      recipe.name = as_word(item, "\"name\"");
    } else if (name == "summary") {
      recipe.summary = item.scalar();
    } else if (name == "target") {
      recipe.target = as_word(item, "\"target\"");
    } else if (name == "data") {
      recipe.data = as_map(item, "\"data\"");
    } else if (name == "eval") {
      recipe.eval = as_map(item, "\"eval\"");
    } else if (name == "emit") {
      recipe.emit = as_map(item, "\"emit\"");
    } else if (name == "gate") {
      recipe.gate = parse_gate(item);
    } else if (name == "steps") {
      has_steps = true;
      const List& list = as_list(item, "\"steps\"");
      if (list.empty()) fail_at(item.place, "\"steps\" is empty", "name at least one pass; `qtool passes` lists them");
      for (const Setting& step : list) recipe.steps.push_back(read_step(step));
      name_steps(recipe.steps);
    } else if (name == "rules") {
      for (const Setting& rule : as_list(item, "\"rules\"")) recipe.rules.push_back(read_rule(rule));
    } else {
      std::vector<std::string> keys;
      for (const RecipeKey& key : recipe_keys()) keys.emplace_back(key.name);
      std::string all;
      for (const std::string& key : keys) all += (all.empty() ? "" : ", ") + key;
      fail_at(item.key, "unknown key \"" + name + "\" in the recipe" + did_you_mean(name, keys), "keys: " + all);
    }
  }
  if (!has_version) fail_at(root.place, "the recipe has no \"version\"", "write `version: 1` at its top");
  if (!has_steps) fail_at(root.place, "the recipe has no \"steps\"");
  return recipe;
}

std::vector<std::pair<std::string, std::string>> shipped_recipes() {
  return {
#include "shipped_recipes.inc"
  };
}

Recipe load_recipe(const std::string& name_or_path) {
  const std::filesystem::path path(name_or_path);
  std::error_code ignored;
  const bool spelled_as_path = name_or_path.find('/') != std::string::npos || path.extension() == ".yaml" ||
                               path.extension() == ".yml" || std::filesystem::is_regular_file(path, ignored);
  if (spelled_as_path) {
    try {
      return parse_recipe(read_text(path), name_or_path);
    } catch (const Error& e) {
      if (e.code() == Code::input) throw Error(Code::usage, e.what(), e.hint());  // a recipe is no model
      throw;
    }
  }
  std::vector<std::string> names;
  for (const auto& [name, text] : shipped_recipes()) {
    if (name == name_or_path) return parse_recipe(text, name + ".yaml");
    names.push_back(name);
  }
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  throw Error(Code::usage, "no recipe \"" + name_or_path + "\"" + did_you_mean(name_or_path, names),
              "shipped recipes: " + all + "; or give the path of a .yaml file");
}

}  // namespace qtool

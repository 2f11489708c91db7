// SPDX-License-Identifier: Apache-2.0
// --set: the same tree of settings that a file gives, changed in one place.
#include <algorithm>

#include "formats/base/error.h"
#include "recipes/reader/recipe.h"
#include "recipes/reader/yaml.h"

namespace qtool {
namespace {

/// Replaces or appends `path` ("image.resize" walks into maps).
void put(Settings& settings, std::string_view path, Setting value) {
  const std::size_t dot = path.find('.');
  const std::string name(path.substr(0, dot));
  auto at = std::find_if(settings.begin(), settings.end(), [&](const auto& s) { return s.name == name; });
  if (at == settings.end()) at = settings.insert(at, {name, Setting{value.place, Settings{}, false, value.place}});
  if (dot == std::string_view::npos) {
    value.key = value.place;
    at->setting = std::move(value);
    return;
  }
  if (!std::holds_alternative<Settings>(at->setting.value)) at->setting.value = Settings{};
  put(std::get<Settings>(at->setting.value), path.substr(dot + 1), std::move(value));
}

Step& step_named(Recipe& recipe, const std::string& name, const Place& place) {
  std::vector<std::string> names;
  Step* found = nullptr;
  int same_pass = 0;
  for (Step& step : recipe.steps) {
    names.push_back(step.id);
    if (step.id == name) return step;
    if (step.pass == name) {
      found = &step;
      ++same_pass;
    }
  }
  std::string all;
  for (const std::string& n : names) all += (all.empty() ? "" : ", ") + n;
  if (same_pass > 1) fail_at(place, "more than one step runs \"" + name + "\"", "name the step by its id: " + all);
  if (found) return *found;
  for (const char* section : {"target", "data", "eval", "emit", "gate"}) names.emplace_back(section);
  fail_at(place, "the recipe has no step \"" + name + "\"" + did_you_mean(name, names),
          "steps: " + all + "; sections: data, eval, emit, gate, target");
}

}  // namespace

void set_knob(Recipe& recipe, std::string_view assignment) {
  const Place place{"--set " + std::string(assignment), 0, 0};
  const std::size_t equal = assignment.find('=');
  if (equal == std::string_view::npos || equal == 0) {
    fail_at(place, "expected STEP.KEY=VALUE", "for example --set calibrate_ranges.method=entropy");
  }
  const std::string_view left = assignment.substr(0, equal);
  Setting value = parse_yaml(assignment.substr(equal + 1), place.file);
  // Places inside a command line argument help nobody: all settings of the argument share one.
  const auto flatten = [&](auto&& self, Setting& s) -> void {
    s.place = place;
    if (!s.key.file.empty()) s.key = place;
    if (auto* list = std::get_if<std::vector<Setting>>(&s.value)) {
      for (Setting& item : *list) self(self, item);
    } else if (auto* map = std::get_if<Settings>(&s.value)) {
      for (auto& item : *map) self(self, item.setting);
    }
  };
  flatten(flatten, value);
  if (left == "target") {
    recipe.target = value.scalar();
    return;
  }
  const std::size_t dot = left.find('.');
  const std::string owner(left.substr(0, dot));
  if (dot == std::string_view::npos || dot + 1 == left.size() || owner.empty()) {
    fail_at(place, "expected STEP.KEY=VALUE", "for example --set calibrate_ranges.method=entropy");
  }
  const std::string_view key = left.substr(dot + 1);
  if (owner == "data" || owner == "eval" || owner == "emit") {
    put(owner == "data" ? recipe.data : owner == "eval" ? recipe.eval : recipe.emit, key, std::move(value));
  } else if (owner == "gate") {
    put(recipe.gate.settings, key, std::move(value));
    recipe.gate = parse_gate(Setting{place, recipe.gate.settings, false, place});
  } else {
    put(step_named(recipe, owner, place).knobs, key, std::move(value));
  }
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/bind.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/number/scheme.h"
#include "recipes/reader/yaml.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

/// The number without trailing zeros: "1", "0.5", "1e+20".
std::string brief(double v) { return Json(v).dump(); }

std::string bounds(const Knob& knob) {
  const bool low = std::isfinite(knob.lowest), high = std::isfinite(knob.highest);
  if (low && high) return "from " + brief(knob.lowest) + " to " + brief(knob.highest);
  if (low) return "at least " + brief(knob.lowest);
  return "at most " + brief(knob.highest);
}

std::string listed(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& w : words) out += (out.empty() ? "" : ", ") + w;
  return out;
}

/// Assigns one setting to one knob; every message starts with the setting's place.
struct Assign {
  const Knob& knob;
  const Setting& setting;
  std::string_view owner;

  [[noreturn]] void fail(const std::string& wanted, const std::string& hint = {}) const {
    fail_at(setting.place,
            "\"" + std::string(knob.name) + "\" in " + std::string(owner) + " must be " + wanted + ", not " +
                describe(setting),
            hint);
  }
  template <class T>
  T in_range(T value) const {
    if (static_cast<double>(value) < knob.lowest || static_cast<double>(value) > knob.highest) fail(bounds(knob));
    return value;
  }

  void operator()(bool* slot) const {
    const auto value = yaml_bool(setting);
    if (!value) fail("true or false");
    *slot = *value;
  }
  void operator()(std::int64_t* slot) const {
    const auto value = yaml_integer(setting);
    if (!value) fail("a whole number");
    *slot = in_range(*value);
  }
  void operator()(double* slot) const {
    const auto value = yaml_number(setting);
    if (!value) fail("a number");
    *slot = in_range(*value);
  }
  void operator()(std::string* slot) const {
    if (!std::holds_alternative<std::string>(setting.value) || setting.null()) fail("a word");
    const std::string& word = setting.scalar();
    const std::vector<std::string> choices(knob.choices.begin(), knob.choices.end());
    if (!choices.empty() && std::find(choices.begin(), choices.end(), word) == choices.end()) {
      fail("one of " + listed(choices));
    }
    *slot = word;
    if (knob.is_file && !word.empty()) *slot = file(word);
  }
  /// As data are found: from the folder of the recipe, or from here with --set.
  std::string file(const std::string& word) const {
    fs::path path = word;
    if (setting.place.line != 0 && path.is_relative()) path = fs::path(setting.place.file).parent_path() / path;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) fail("a file that is there");
    return path.string();
  }
  void operator()(std::vector<std::string>* slot) const {
    std::vector<std::string> words;
    if (const auto* list = std::get_if<std::vector<Setting>>(&setting.value)) {
      for (const Setting& item : *list) words.push_back(item.scalar());
    } else if (std::holds_alternative<std::string>(setting.value) && !setting.null()) {
      words.push_back(setting.scalar());
    } else {
      fail("a word or a list of words");
    }
    *slot = std::move(words);
  }
  void operator()(const NumberFormat** slot) const {
    std::vector<std::string> names;
    for (const NumberFormat* format : numbers()) names.emplace_back(format->name);
    *slot = named(names, find_number);
  }
  void operator()(const Scheme** slot) const {
    std::vector<std::string> names;
    for (const Scheme& scheme : schemes()) names.emplace_back(scheme.name);
    *slot = named(names, find_scheme);
  }
  template <class T>
  const T* named(const std::vector<std::string>& names, const T* (*find)(std::string_view)) const {
    if (!std::holds_alternative<std::string>(setting.value) || setting.null()) fail("a number format such as int8");
    const std::string& word = setting.scalar();
    const T* found = find(word);
    if (!found) {
      fail_at(setting.place,
              "unknown number format \"" + word + "\" for \"" + std::string(knob.name) + "\" in " + std::string(owner) +
                  did_you_mean(word, names),
              "number formats: " + listed(names));
    }
    return found;
  }
};

struct Names final : Options {
  std::vector<std::string> all;
  void visit(const Knob& knob) override { all.emplace_back(knob.name); }
};

class Binder final : public Options {
 public:
  Binder(const Settings& settings, std::string_view owner) : settings_(settings), owner_(owner) {}

 private:
  void visit(const Knob& knob) override {
    for (const auto& [name, setting] : settings_) {
      if (name == knob.name) std::visit(Assign{knob, setting, owner_}, knob.slot);
    }
  }

  const Settings& settings_;
  std::string_view owner_;
};

/// The value behind a knob as JSON, and what kind it is.
struct Show {
  std::string_view& type;
  Json operator()(const bool* slot) const { return type = "bool", Json(*slot); }
  Json operator()(const std::int64_t* slot) const { return type = "integer", Json(*slot); }
  Json operator()(const double* slot) const { return type = "number", std::isfinite(*slot) ? Json(*slot) : Json(); }
  Json operator()(const std::string* slot) const { return type = "word", Json(*slot); }
  Json operator()(const std::vector<std::string>* slot) const {
    type = "words";
    Json out = Json::array();
    for (const std::string& w : *slot) out.push(w);
    return out;
  }
  Json operator()(const NumberFormat* const* slot) const {
    type = "number format";
    return *slot ? Json((*slot)->name) : Json();
  }
  Json operator()(const Scheme* const* slot) const {
    type = "number format";
    return Json((*slot)->name);
  }
};

struct Describer final : Options {
  Json knobs = Json::array();
  void visit(const Knob& knob) override {
    std::string_view type;
    const Json value = std::visit(Show{type}, knob.slot);
    if (knob.is_file) type = "file";
    Json row = Json::object();
    row.set("name", knob.name).set("type", type).set("default", value);
    if (type == "integer" || type == "number") {
      if (std::isfinite(knob.lowest)) row.set("lowest", knob.lowest);
      if (std::isfinite(knob.highest)) row.set("highest", knob.highest);
    }
    if (!knob.choices.empty()) {
      Json choices = Json::array();
      for (const std::string_view c : knob.choices) choices.push(c);
      row.set("choices", std::move(choices));
    }
    knobs.push(std::move(row.set("help", knob.help)));
  }
};

struct Printer final : Options {
  std::string text;
  void visit(const Knob& knob) override {
    std::string_view type;
    const Json value = std::visit(Show{type}, knob.slot);
    text += (text.empty() ? "" : " ") + std::string(knob.name) + "=";
    if (knob.is_file && value.is_string() && !value.as_string().empty()) {
      text += "sha256:" + hex(Hasher().bytes(MappedFile(value.as_string()).bytes()).finish());
      return;
    }
    text += value.is_string() ? value.as_string() : value.dump();
  }
};

}  // namespace

void bind_knobs(const Settings& settings, const Declare& declare, std::string_view owner) {
  Names names;  // all of them first: a misspelt name is reported before the value of another
  declare(names);
  for (const auto& [name, setting] : settings) {
    if (std::find(names.all.begin(), names.all.end(), name) != names.all.end()) continue;
    const Place& place = setting.key.file.empty() ? setting.place : setting.key;
    fail_at(place, "unknown key \"" + name + "\" in " + std::string(owner) + did_you_mean(name, names.all),
            names.all.empty() ? std::string(owner) + " takes no keys" : "keys: " + listed(names.all));
  }
  Binder binder(settings, owner);
  declare(binder);
}

Json describe_knobs(const Declare& declare) {
  Describer describer;
  declare(describer);
  return std::move(describer.knobs);
}

std::string fingerprint_knobs(const Declare& declare) {
  Printer printer;
  declare(printer);
  return printer.text;
}

}  // namespace qtool

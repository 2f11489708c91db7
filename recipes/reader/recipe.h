// SPDX-License-Identifier: Apache-2.0
// Recipe: YAML to a value. Every knob remembers file, line and column; typing happens where the knob is declared
// (formats/base/options.h), and an unknown knob is an error with the nearest name.
//
//   version: 1
//   target: ort-cpu
//   summary: one line for `recipe list`
//   data: {samples: 200, ...}                    # DataOptions of calib, plus `eval:` with the same keys
//   steps:
//     - fold_constants
//     - assign_formats: {activations: uint8, weights: int8}
//       where: {op: [Conv, MatMul], not_name: "*head*"}
//       id: main
//   rules:                                       # format wishes per node, first match wins; last word over steps
//     - where: {name: "*head*"}
//       keep: float
//   emit: {form: qdq}
//   gate: {sqnr_db: 20, kl: 0.01, top1_drop: 0.01, size_ratio: 0.5}
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/base/json.h"

namespace qtool {

/// Place in a recipe, for messages: "w4.yaml:12:7".
struct Place {
  std::string file;
  int line = 0, column = 0;  // 1-based; 0: not from a file (--set)
  std::string text() const;
};

struct NamedSetting;
/// A map in the order of the file.
using Settings = std::vector<NamedSetting>;

/// A YAML node with its place: scalar (as text), list or map.
struct Setting {
  Place place;
  std::variant<std::string, std::vector<Setting>, Settings> value;
  bool quoted = false;  // a quoted scalar is never a number or a word like `null`
  Place key;            // of the key in front of a map's value; messages about names point here

  const std::string& scalar() const;  // Error(Code::usage) when it is none
  bool null() const;                  // `~`, `null` or nothing at all
  Json json() const;                  // scalars as their YAML type
};
struct NamedSetting {
  std::string name;
  Setting setting;
};

/// Node selector: all conditions must hold. See where.h.
struct Where {
  Place place;
  std::vector<std::string> op, name, not_op, not_name;  // glob patterns
  std::vector<std::string> region;                      // "first", "last", "after:NAME", "before:NAME"
  std::int64_t min_size = 0, max_size = 0;              // elements of the largest constant input; 0: no bound
};

struct Rule {
  Where where;
  Settings wishes;  // keep: float | weights: int4 | activations: uint8 | group: 32 ...
  Place place;
};

struct Step {
  std::string pass, id;  // id defaults to the pass name (made unique by the reader: an explicit id must be unique)
  Settings knobs;
  std::optional<Where> where;
  Place place;
};

/// Limits that the written model must meet on held-out data; unset: not asked.
struct Gate {
  std::optional<double> sqnr_db, kl, top1_drop, perplexity_ratio, agreement, size_ratio, integer_share;
  bool pass_undecided = false;  // a limit that the samples are too few to decide counts as met
  Place place;
  Settings settings;  // as written, for --set
  bool any() const { return needs_data() || size_ratio || integer_share; }
  bool needs_data() const { return sqnr_db || kl || top1_drop || perplexity_ratio || agreement; }
  bool needs_labels() const { return top1_drop || perplexity_ratio; }
};

struct Recipe {
  std::string name, summary, target;
  int version = 1;
  Settings data;  // bound onto DataOptions by cli/job
  Settings eval;
  std::vector<Step> steps;
  std::vector<Rule> rules;
  Settings emit;  // `form`, and the emitter's knobs
  Gate gate;
  std::string source;  // the text as read, for the fingerprint
};

/// Reads a recipe file, or a shipped recipe by its name. Error(Code::usage) with place and nearest name.
Recipe load_recipe(const std::string& name_or_path);
Recipe parse_recipe(std::string_view yaml, const std::string& source);
Gate parse_gate(const Setting&);
/// Shipped recipes: name and text, compiled in.
std::vector<std::pair<std::string, std::string>> shipped_recipes();
/// Applies `--set id.key=value` (step id or pass name; `emit.key`, `data.key`, `eval.key`, `gate.key` and `target`
/// too). The value is YAML: `--set data.image={resize: 256}` or `--set data.image.resize=256`.
void set_knob(Recipe&, std::string_view assignment);

/// The nearest of `candidates` by edit distance, or "" when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace qtool

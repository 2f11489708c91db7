// SPDX-License-Identifier: Apache-2.0
// The tables of the recipe reference, from what the reader, the passes and the emitters declare.
#include <algorithm>
#include <memory>

#include "backends/backend.h"
#include "cli/catalogue.h"
#include "cli/data_options.h"
#include "cli/markdown.h"
#include "passes/pass.h"
#include "recipes/reader/bind.h"
#include "recipes/reader/keys.h"

namespace qtool {
namespace {

std::string sections() {
  std::vector<markdown::Row> rows;
  for (const RecipeKey& key : recipe_keys()) {
    rows.push_back({markdown::code(key.name), key.required ? "yes" : "", markdown::cell(key.meaning)});
  }
  return markdown::table({"key", "required", "meaning"}, rows);
}

/// Names of the knobs, in backquotes.
std::string knobs_of(const PassDef& def) {
  const std::unique_ptr<Pass> pass = def.make();
  std::string text;
  const Json knobs = describe_knobs([&](Options& o) { pass->options(o); });
  for (const Json& knob : knobs.as_array()) {
    text += (text.empty() ? "" : ", ") + markdown::code(knob.find("name")->as_string());
  }
  return text;
}

std::string link_of(const PassDef& def) {
  const std::string name(def.name);
  return "[" + name + "](passes.md#" + name + ")";
}

std::string steps() {
  std::vector<markdown::Row> rows;
  for (const PassDef* def : passes()) {
    rows.push_back({link_of(*def), markdown::cell(def->summary), def->needs_data ? "yes" : "", knobs_of(*def)});
  }
  return markdown::table({"pass", "what it does", "needs data", "knobs"}, rows);
}

std::string rules() {
  std::vector<markdown::Row> rows{{"`where`", "which nodes; required"},
                                  {"`keep: float`", "the nodes are not quantized"}};
  for (const PassDef* def : passes()) {
    if (def->follows_rules) rows.push_back({knobs_of(*def), "as in the step " + link_of(*def) + ", for these nodes"});
  }
  return markdown::table({"key", "meaning"}, rows);
}

std::string emit() {
  std::string text;
  for (const BackendDef* def : backends()) {
    const std::unique_ptr<Emitter> emitter = def->make();
    const std::string name(def->name);
    text += (text.empty() ? "" : "\n") + ("[" + name + "](targets/" + name + ".md):");
    const Json knobs = describe_knobs([&](Options& o) { emitter->options(o); });
    text += knobs.as_array().empty() ? " no options.\n" : "\n\n" + markdown::knob_table(knobs, "option");
  }
  return text;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> recipe_tables() {
  return {{"sections", sections()},
          {"data", markdown::knob_table(describe_data(), "key")},
          {"image", markdown::knob_table(describe_image(), "key")},
          {"steps", steps()},
          {"where", markdown::knob_table(describe_where(), "condition")},
          {"rules", rules()},
          {"emit", emit()},
          {"gate", markdown::knob_table(describe_gate(), "limit")}};
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/catalogue.h"

#include <array>
#include <charconv>
#include <memory>
#include <vector>

#include "cli/markdown.h"
#include "formats/number/number.h"
#include "passes/pass.h"
#include "recipes/reader/bind.h"

namespace qtool {
namespace {

std::string_view meaning(Effect effect) {
  switch (effect) {
    case Effect::measure: return "changes nothing, records facts";
    case Effect::equivalent: return "may change anything, but the float outputs stay the same";
    case Effect::annotate: return "changes only how values are quantized";
    case Effect::lossy: return "may change the float outputs; inputs and outputs keep their names and types";
  }
  return "";
}

/// The shortest text that reads back to the same float.
std::string float_text(float value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

std::string pass_section(const PassDef& def) {
  const std::unique_ptr<Pass> pass = def.make();
  std::string text = "## " + std::string(def.name) + "\n\n" + markdown::sentence(def.summary) + "\n\n";
  text += "- effect: **" + std::string(name_of(def.effect)) + "**: " + std::string(meaning(def.effect)) + "\n";
  if (!def.paper.empty()) text += "- paper: " + std::string(def.paper) + "\n";
  if (def.needs_data) text += "- needs calibration data\n";
  text += "- revision: " + std::to_string(def.revision) + "\n\n";
  return text + markdown::knob_table(describe_knobs([&](Options& options) { pass->options(options); }));
}

}  // namespace

std::string passes_markdown() {
  std::string text =
      "# Passes\n\n"
      "Written by `qtool passes --markdown`: do not edit. A recipe lists passes under `steps:` and sets their knobs "
      "by\n"
      "name; any pass also takes `where:` (which nodes) and `id:` (a name for `--set`).\n\n";
  std::vector<markdown::Row> rows;
  for (const PassDef* def : passes())
    rows.push_back({"[" + std::string(def->name) + "](#" + std::string(def->name) + ")",
                    std::string(name_of(def->effect)), markdown::cell(def->summary)});
  text += markdown::table({"pass", "effect", "what it does"}, rows);
  for (const PassDef* def : passes()) text += "\n" + pass_section(*def);
  return text;
}

std::string numbers_markdown() {
  std::vector<markdown::Row> rows;
  for (const NumberFormat* number : numbers())
    rows.push_back({markdown::code(number->name), std::to_string(number->bits), float_text(number->lowest),
                    float_text(number->highest), number->is_integer ? "integer" : "real",
                    number->onnx ? markdown::code(name_of(*number->onnx)) : "-"});
  return markdown::table({"name", "bits", "lowest", "highest", "kind", "stored in ONNX as"}, rows);
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/catalogue.h"

#include <array>
#include <charconv>
#include <memory>
#include <vector>

#include "formats/number/number.h"
#include "passes/pass.h"
#include "recipes/reader/bind.h"

namespace qtool {
namespace {

using Row = std::vector<std::string>;

/// Text that cannot end a table cell early.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string code(std::string_view text) { return text.empty() ? "" : "`" + cell(text) + "`"; }

std::string table_line(const Row& row) {
  std::string line = "|";
  for (const std::string& text : row) line += (text.empty() ? " " : " " + text + " ") + std::string("|");
  return line + "\n";
}

std::string table(const Row& head, const std::vector<Row>& rows) {
  std::string text = table_line(head) + "|";
  for (std::size_t i = 0; i < head.size(); ++i) text += "---|";
  text += "\n";
  for (const Row& row : rows) text += table_line(row);
  return text;
}

std::string_view meaning(Effect effect) {
  switch (effect) {
    case Effect::measure: return "changes nothing, records facts";
    case Effect::equivalent: return "may change anything, but the float outputs stay the same";
    case Effect::annotate: return "changes only how values are quantized";
    case Effect::lossy: return "may change the float outputs; inputs and outputs keep their names and types";
  }
  return "";
}

std::string value_text(const Json& value) { return value.is_string() ? value.as_string() : value.dump(); }

/// The shortest text that reads back to the same float.
std::string float_text(float value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

/// "0 to 1", "at least 0", "`a`, `b`" or nothing.
std::string legal_values(const Json& knob) {
  if (const Json* choices = knob.find("choices")) {
    std::string text;
    for (const Json& choice : choices->as_array()) text += (text.empty() ? "" : ", ") + code(choice.as_string());
    return text;
  }
  const Json *lowest = knob.find("lowest"), *highest = knob.find("highest");
  if (lowest && highest) return lowest->dump() + " to " + highest->dump();
  if (lowest) return "at least " + lowest->dump();
  return highest ? "at most " + highest->dump() : "";
}

std::string knob_table(const Json& knobs) {
  if (knobs.as_array().empty()) return "No knobs.\n";
  std::vector<Row> rows;
  for (const Json& knob : knobs.as_array()) {
    const Json& initial = *knob.find("default");
    rows.push_back({code(knob.find("name")->as_string()), knob.find("type")->as_string(),
                    initial.is_null() ? "" : code(value_text(initial)), legal_values(knob),
                    cell(knob.find("help")->as_string())});
  }
  return table({"knob", "type", "default", "values", "meaning"}, rows);
}

std::string sentence(std::string_view text) {
  std::string out(text);
  if (!out.empty() && out[0] >= 'a' && out[0] <= 'z') out[0] = static_cast<char>(out[0] - 'a' + 'A');
  return out + ".";
}

std::string pass_section(const PassDef& def) {
  const std::unique_ptr<Pass> pass = def.make();
  std::string text = "## " + std::string(def.name) + "\n\n" + sentence(def.summary) + "\n\n";
  text += "- effect: **" + std::string(name_of(def.effect)) + "**: " + std::string(meaning(def.effect)) + "\n";
  if (!def.paper.empty()) text += "- paper: " + std::string(def.paper) + "\n";
  if (def.needs_data) text += "- needs calibration data\n";
  text += "- revision: " + std::to_string(def.revision) + "\n\n";
  return text + knob_table(describe_knobs([&](Options& options) { pass->options(options); }));
}

}  // namespace

std::string passes_markdown() {
  std::string text =
      "# Passes\n\n"
      "Written by `qtool passes --markdown`: do not edit. A recipe lists passes under `steps:` and sets their knobs "
      "by\n"
      "name; any pass also takes `where:` (which nodes) and `id:` (a name for `--set`).\n\n";
  std::vector<Row> rows;
  for (const PassDef* def : passes())
    rows.push_back({"[" + std::string(def->name) + "](#" + std::string(def->name) + ")",
                    std::string(name_of(def->effect)), cell(def->summary)});
  text += table({"pass", "effect", "what it does"}, rows);
  for (const PassDef* def : passes()) text += "\n" + pass_section(*def);
  return text;
}

std::string numbers_markdown() {
  std::vector<Row> rows;
  for (const NumberFormat* number : numbers())
    rows.push_back({code(number->name), std::to_string(number->bits), float_text(number->lowest),
                    float_text(number->highest), number->is_integer ? "integer" : "real",
                    number->onnx ? code(name_of(*number->onnx)) : "-"});
  return table({"name", "bits", "lowest", "highest", "kind", "stored in ONNX as"}, rows);
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/markdown.h"

namespace qtool::markdown {
namespace {

std::string table_line(const Row& row) {
  std::string line = "|";
  for (const std::string& text : row) line += (text.empty() ? " " : " " + text + " ") + std::string("|");
  return line + "\n";
}

/// Nothing for nothing: an empty word, an empty list.
std::string initial_text(const Json& value) {
  if (value.is_null() || (value.is_array() && value.as_array().empty())) return "";
  return code(value.is_string() ? value.as_string() : value.dump());
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

}  // namespace

std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string code(std::string_view text) { return text.empty() ? "" : "`" + cell(text) + "`"; }

std::string table(const Row& head, const std::vector<Row>& rows) {
  std::string text = table_line(head) + "|";
  for (std::size_t i = 0; i < head.size(); ++i) text += "---|";
  text += "\n";
  for (const Row& row : rows) text += table_line(row);
  return text;
}

std::string codes(const std::vector<std::string_view>& words) {
  std::string text;
  for (const std::string_view word : words) text += (text.empty() ? "" : ", ") + code(word);
  return text;
}

std::string knob_table(const Json& knobs, std::string_view title) {
  if (knobs.as_array().empty()) return "No " + std::string(title) + "s.\n";
  std::vector<Row> rows;
  for (const Json& knob : knobs.as_array()) {
    const Json& initial = *knob.find("default");
    rows.push_back({code(knob.find("name")->as_string()), knob.find("type")->as_string(), initial_text(initial),
                    legal_values(knob), cell(knob.find("help")->as_string())});
  }
  return table({std::string(title), "type", "default", "values", "meaning"}, rows);
}

std::string sentence(std::string_view text) {
  std::string out(text);
  if (!out.empty() && out[0] >= 'a' && out[0] <= 'z') out[0] = static_cast<char>(out[0] - 'a' + 'A');
  return out + ".";
}

}  // namespace qtool::markdown

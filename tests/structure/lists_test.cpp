// SPDX-License-Identifier: Apache-2.0
// Every registered object has its line in the list.inc of its folder, every line has its object, and lists that say
// they are alphabetical are. Sources are read as text: an object without a line is invisible to the linker.
#include <map>
#include <optional>
#include <regex>
#include <set>

#include "tests/structure/tree.h"

namespace qtool::test {
namespace {

struct List {
  std::string file, macro, type, folder;
};

const std::vector<List> lists = {
    {"formats/number/list.inc", "QTOOL_NUMBER", "NumberFormat", "formats/number/"},
    {"calib/ops/list.inc", "QTOOL_OP", "OpDef", "calib/"},
    {"passes/list.inc", "QTOOL_PASS", "PassDef", "passes/"},
    {"backends/list.inc", "QTOOL_BACKEND", "BackendDef", "backends/"},
    {"backends/cpu/list.inc", "QTOOL_KERNEL", "IntegerKernel", "backends/cpu/"},
    {"cli/list.inc", "QTOOL_COMMAND", "CommandDef", "cli/"},
};

/// Name -> where it stands.
using Names = std::map<std::string, std::string>;

/// First arguments of the calls of `macro` at the start of a line.
void add_calls(const std::string& file, const std::vector<std::string>& lines, const std::string& macro, Names& names) {
  const std::regex call("\\s*" + macro + "\\(\\s*(\\w+)\\s*[,)].*");
  std::smatch m;
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (std::regex_match(lines[i], m, call)) names.emplace(m[1], place(file, i + 1));
}

/// Objects of `type` that `text` defines, written out or through a macro of the same file whose first argument is the
/// name.
void add_definitions(const std::string& file, const std::string& text, const std::string& type, Names& names) {
  const std::regex definition("(?:^|\\bconstinit\\s+)const\\s+(?:qtool::)?" + type +
                              "\\s+(?:\\w+::)*(\\w+)\\s*(?:=|\\{|$)");
  const std::regex macro_head("\\s*#\\s*define\\s+(\\w+)\\(\\s*(\\w+).*");
  const auto lines = lines_of(text);
  std::string macro, parameter;  // of the #define that line i belongs to
  std::smatch m;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const bool continues = i > 0 && lines[i - 1].ends_with('\\');
    if (std::regex_match(lines[i], m, macro_head)) {
      macro = m[1];
      parameter = m[2];
    } else if (!continues) {
      macro.clear();
    }
    if (!std::regex_search(lines[i], m, definition)) continue;
    if (!macro.empty() && m[1] == parameter)
      add_calls(file, lines, macro, names);
    else
      names.emplace(m[1], place(file, i + 1));
  }
}

std::vector<std::string> findings_in(const List& list) {
  const std::string text = read_text(source_dir() / list.file);
  Names listed, defined;
  std::vector<std::string> order, findings;
  const auto lines = lines_of(text);
  add_calls(list.file, lines, list.macro, listed);
  for (const std::string& file : project_files())
    if (file.starts_with(list.folder) && file.ends_with(".cpp"))
      add_definitions(file, read_text(source_dir() / file), list.type, defined);
  for (const auto& [name, where] : defined)
    if (!listed.contains(name)) findings.push_back(where + name + " has no line in " + list.file);
  for (const auto& [name, where] : listed)
    if (!defined.contains(name)) findings.push_back(where + name + " is defined nowhere under " + list.folder);

  const std::regex entry("\\s*" + list.macro + "\\(\\s*(\\w+)\\s*[,)].*");
  std::set<std::string> seen;
  std::smatch m;
  std::string before;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (!std::regex_match(lines[i], m, entry)) continue;
    const std::string name = m[1];
    if (!seen.insert(name).second) findings.push_back(place(list.file, i + 1) + name + " stands twice");
    if (text.find("alphabetical") != std::string::npos && name < before)
      findings.push_back(place(list.file, i + 1) + name + " belongs before " + before);
    before = name;
  }
  return findings;
}

}  // namespace

TEST_CASE("every registered object has its line, every line its object") {
  for (const List& list : lists) {
    CAPTURE(list.file);
    CHECK(std::filesystem::exists(source_dir() / list.file));
    expect_none(findings_in(list));
  }
}

TEST_CASE("definitions are found, written out or through a macro") {
  Names names;
  add_definitions("x.cpp",
                  "constinit const OpDef Add{\"Add\"};\n"
                  "#define UNARY(name, f) \\\n"
                  "  constinit const OpDef name{#name, f};\n"
                  "UNARY(Sin, sinf)\n"
                  "UNARY(Cos, cosf)\n"
                  "const OpDef* find(int);\n"
                  "  const OpDef wanted{name};\n",
                  "OpDef", names);
  CHECK(names == Names{{"Add", "x.cpp:1: "}, {"Sin", "x.cpp:4: "}, {"Cos", "x.cpp:5: "}});
}

}  // namespace qtool::test

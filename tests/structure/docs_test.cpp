// SPDX-License-Identifier: Apache-2.0
// Documents that must agree with the code. QTOOL_REGOLD=1 rewrites the generated ones.
#include <cstdlib>
#include <regex>
#include <set>

#include "backends/backend.h"
#include "cli/catalogue.h"
#include "cli/command.h"
#include "cli/help.h"
#include "formats/base/error.h"
#include "formats/number/number.h"
#include "passes/pass.h"
#include "tests/structure/tree.h"

namespace qtool::test {
namespace {

std::string document(const std::string& path) { return read_text(source_dir() / path); }

bool rewrite_wanted() { return std::getenv("QTOOL_REGOLD") != nullptr; }

void rewrite(const std::string& path, const std::string& text) {
  std::ofstream(source_dir() / path, std::ios::binary) << text;
}

/// Between the two marks; `text` with that part replaced, or empty when the marks are missing.
std::string with_part(const std::string& text, const std::string& name, const std::string& part) {
  const std::string begin = "<!-- " + name + ":begin -->\n", end = "<!-- " + name + ":end -->";
  const auto from = text.find(begin), to = text.find(end);
  if (from == std::string::npos || to == std::string::npos) return {};
  return text.substr(0, from + begin.size()) + part + text.substr(to);
}

void expect_document(const std::string& path, const std::string& wanted) {
  if (rewrite_wanted()) rewrite(path, wanted);
  const bool up_to_date = document(path) == wanted;
  CHECK_MESSAGE(up_to_date, path << " is out of date: QTOOL_REGOLD=1 on this test rewrites it");
}

/// Lines of the shell and indented code blocks of a Markdown text.
std::vector<std::string> code_lines(const std::string& markdown) {
  std::vector<std::string> found;
  std::string fence;
  for (const std::string& line : lines_of(markdown)) {
    if (line.starts_with("```"))
      fence = fence.empty() ? line : "";
    else if (fence.empty() ? line.starts_with("    ") : fence != "```yaml" && fence != "```cpp" && fence != "```python")
      found.push_back(line);
  }
  return found;
}

/// Lines that end in a backslash continue in the next.
std::vector<std::string> joined(const std::vector<std::string>& lines) {
  std::vector<std::string> found;
  bool continues = false;
  for (const std::string& line : lines) {
    if (continues)
      found.back() += " " + line;
    else
      found.push_back(line);
    continues = line.ends_with('\\');
    if (continues) found.back().pop_back();
  }
  return found;
}

/// What is wrong with a shell line that calls qtool; empty: nothing.
std::string objection(const std::string& line) {
  static const std::regex call("(?:^|[\\s/\"])qtool\\s+([a-z]\\w*)(.*)"), flag("\\s(--?[a-z][\\w-]*)");
  std::smatch m;
  if (line.size() > 1000 || !std::regex_search(line, m, call)) return "";
  const CommandDef* def = find_command(m[1].str());
  if (!def) return "no command " + m[1].str();
  const Declared declared(*def);
  std::string known = ",-h,--help,";
  for (const Argument& argument : declared.arguments.all()) known += std::string(argument.flags) + ",";
  const std::string rest = m[2];
  for (auto it = std::sregex_iterator(rest.begin(), rest.end(), flag); it != std::sregex_iterator(); ++it)
    if (known.find("," + (*it)[1].str() + ",") == std::string::npos)
      return m[1].str() + " has no option " + (*it)[1].str();
  return "";
}

}  // namespace

TEST_CASE("docs/passes.md is what the program writes") { expect_document("docs/passes.md", passes_markdown()); }

TEST_CASE("the tables of docs/numbers.md are what the program writes") {
  const std::string numbers = with_part(document("docs/numbers.md"), "numbers", numbers_markdown());
  const std::string wanted = with_part(numbers, "schemes", schemes_markdown());
  REQUIRE(!wanted.empty());
  expect_document("docs/numbers.md", wanted);
}

TEST_CASE("every target has its page, and it is what the program writes") {
  std::set<std::string> wanted;
  for (const BackendDef* def : backends()) {
    const std::string path = "docs/targets/" + std::string(def->name) + ".md";
    expect_document(path, target_markdown(*def));
    wanted.insert(path);
  }
  for (const std::string& file : project_files())
    if (file.starts_with("docs/targets/")) CHECK_MESSAGE(wanted.count(file) == 1, file << " is of no target");
}

TEST_CASE("the tables of docs/recipes.md are what the program writes") {
  std::string wanted = document("docs/recipes.md");
  for (const auto& [name, table] : recipe_tables()) {
    wanted = with_part(wanted, name, "\n" + table + "\n");
    REQUIRE_MESSAGE(!wanted.empty(), "docs/recipes.md has no marks for " << name);
  }
  expect_document("docs/recipes.md", wanted);
}

TEST_CASE("every exit code has its page, and the index its line") {
  const std::string index = document("docs/exit-codes/README.md");
  std::set<std::string> wanted{"docs/exit-codes/README.md"};
  for (const ExitCode& code : exit_codes()) {
    const std::string number = std::to_string(code.number);
    const std::string name(code.number == 0 ? "success" : name_of(static_cast<Code>(code.number)));
    const std::string path = "docs/exit-codes/" + number + ".md";
    wanted.insert(path);
    CHECK_MESSAGE(document(path).starts_with("# " + number + " " + name + "\n\n"), path << " has another title");
    const std::string row = "| [" + number + "](" + number + ".md) | " + name + " |";
    CHECK_MESSAGE(index.find(row) != std::string::npos, "no line: " << row);
  }
  for (int code = 1; code < 256; ++code) {
    if (code != 1 && name_of(static_cast<Code>(code)) == "internal") continue;  // no such Code
    CHECK_MESSAGE(wanted.count("docs/exit-codes/" + std::to_string(code) + ".md") == 1, "help leaves out " << code);
  }
  for (const std::string& file : project_files())
    if (file.starts_with("docs/exit-codes/")) CHECK_MESSAGE(wanted.count(file) == 1, file << " is of no exit code");
}

TEST_CASE("commands and options that documents and samples show exist") {
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    const std::string text = document(file);
    const bool markdown = file.ends_with(".md");
    if (!markdown && !file.starts_with("samples/ci/")) continue;
    for (const std::string& line : joined(markdown ? code_lines(text) : lines_of(text)))
      if (const std::string why = objection(line); !why.empty()) findings.push_back(file + ": " + why + ": " + line);
  }
  expect_none(findings);
  CHECK(objection("  build/release/qtool fly model.onnx") == "no command fly");
  CHECK(objection("qtool quantize m.onnx --fly") == "quantize has no option --fly");
  CHECK(objection("qtool quantize m.onnx --recipe int8_static -o x.onnx").empty());
}

TEST_CASE("links between documents lead somewhere") {
  const std::regex link("\\]\\(([^)#\\s]+)(#[^)]*)?\\)");
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    if (!file.ends_with(".md")) continue;
    const std::string text = document(file);
    const auto folder = (source_dir() / file).parent_path();
    for (auto it = std::sregex_iterator(text.begin(), text.end(), link); it != std::sregex_iterator(); ++it) {
      const std::string to = (*it)[1];
      if (to.find("://") == std::string::npos && !std::filesystem::exists(folder / to))
        findings.push_back(file + ": " + to + " does not exist");
    }
  }
  expect_none(findings);
}

TEST_CASE("CHANGELOG.md has the revision of every pass") {
  const std::string changelog = document("CHANGELOG.md");
  for (const PassDef* def : passes()) {
    const std::string row = "| `" + std::string(def->name) + "` | " + std::to_string(def->revision) + " |";
    CHECK_MESSAGE(changelog.find(row) != std::string::npos, "no line: " << row);
  }
}

}  // namespace qtool::test

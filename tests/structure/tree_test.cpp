// SPDX-License-Identifier: Apache-2.0
// The shape of the tree: what lies at the top, how long files are, how they are laid out, which words they avoid.
#include <map>
#include <regex>
#include <set>

#include "tests/structure/tree.h"

namespace qtool::test {

TEST_CASE("only the agreed names lie at the top") {
  static const std::set<std::string> agreed = {
      "cli",          "passes",          "calib",  "formats",   "backends",       "recipes",
      "tests",        "samples",         "docs",   "LICENSE",   "CMakeLists.txt", "CMakePresets.json",
      "CHANGELOG.md", "CONTRIBUTING.md", "NOTICE", "README.md",
  };
  std::set<std::string> others;
  for (const std::string& file : project_files()) {
    const std::string top = file.substr(0, file.find('/'));
    if (!agreed.contains(top) && top.front() != '.') others.insert(top);
  }
  expect_none({others.begin(), others.end()});
}

TEST_CASE("no source file is longer than 600 lines") {
  // File -> why it may be longer.
  static const std::map<std::string, std::string> allowed = {};
  constexpr std::size_t limit = 600;
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    if (!is_cpp(file) && !ends_with_any(file, {".py", ".cmake"})) continue;
    const std::size_t lines = lines_of(read_text(source_dir() / file)).size();
    const bool excused = allowed.contains(file);
    if (lines > limit && !excused) findings.push_back(file + ": " + std::to_string(lines) + " lines");
    if (lines <= limit && excused) findings.push_back(file + ": needs no exception any more");
  }
  expect_none(findings);
}

TEST_CASE("C++ files are laid out as .clang-format says") {
  const std::string version = run_shell("clang-format --version 2>/dev/null").output;
  if (version.find("version 14.") == std::string::npos) {
    skip("clang-format", version.empty() ? "not installed" : "another version than 14: " + version);
    return;
  }
  std::string files;
  for (const std::string& file : project_files())
    if (is_cpp(file) && !file.ends_with(".inc")) files += " '" + file + "'";  // .inc: tables, one row a line
  const Ran ran = run_shell("cd '" + source_dir().string() + "' && clang-format --dry-run -Werror" + files + " 2>&1");
  std::vector<std::string> findings;
  for (const std::string& line : lines_of(ran.output))
    if (line.find("error:") != std::string::npos) findings.push_back(line);
  expect_none(findings);
  CHECK(ran.status == 0);
}

TEST_CASE("no file speaks of one machine") {
  // Split, so that this file does not find itself.
  static const std::regex machine_path(std::string("(^|[^\\w.~/-])/(wo") + "rk|ho" + "me|ro" + "ot|Us" + "ers|tm" +
                                       "p/[a-z])(/|\\b)");
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    const std::string text = read_text(source_dir() / file);
    if (text.find('\0') != std::string::npos) continue;  // binary
    const auto lines = lines_of(text);
    for (std::size_t i = 0; i < lines.size(); ++i)
      if (std::regex_search(lines[i], machine_path)) findings.push_back(place(file, i + 1) + lines[i]);
  }
  expect_none(findings);
}

TEST_CASE("no file waits for later") {
  static const std::regex later(std::string("\\b(TO") + "DO|FIX" + "ME|XX" + "X)\\b");
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    if (!is_cpp(file) && !ends_with_any(file, {".py", ".cmake", ".sh", ".txt", ".md", ".yaml", ".yml"})) continue;
    const auto lines = lines_of(read_text(source_dir() / file));
    for (std::size_t i = 0; i < lines.size(); ++i)
      if (std::regex_search(lines[i], later)) findings.push_back(place(file, i + 1) + lines[i]);
  }
  expect_none(findings);
}

}  // namespace qtool::test

// SPDX-License-Identifier: Apache-2.0
// One name, one type. Two types of the same name in the same namespace link without a word and then destroy each
// other's members; types that only one file uses belong into an unnamed namespace.
#include <map>
#include <regex>

#include "tests/structure/tree.h"

namespace qtool::test {
namespace {

/// Full name -> where it is defined, for types at namespace scope outside unnamed namespaces. Relies on the layout that
/// clang-format gives: such definitions start in column 0, namespaces close with a comment.
using Types = std::map<std::string, std::vector<std::string>>;

void add_types(const std::string& file, const std::vector<std::string>& lines, Types& types) {
  static const std::regex opens("(?:inline )?namespace(?: ([\\w:]+))? \\{"), closes("\\}  // namespace.*"),
      type("(?:struct|class|union|enum class|enum|using) (\\w+)(?: final)?(?: :.*)? ?(?:\\{|=).*");
  std::vector<std::string> scopes;  // "" for an unnamed one
  std::smatch m;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line.empty() || line[0] == ' ' || line.size() > 400) continue;
    if (std::regex_match(line, m, opens)) {
      scopes.push_back(m[1]);
    } else if (std::regex_match(line, closes)) {
      if (!scopes.empty()) scopes.pop_back();
    } else if (std::find(scopes.begin(), scopes.end(), "") == scopes.end() && std::regex_match(line, m, type)) {
      std::string name;
      for (const std::string& scope : scopes) name += scope + "::";
      types[name + m[1].str()].push_back(place(file, i + 1));
    }
  }
}

std::vector<std::string> repeated(const Types& types) {
  std::vector<std::string> findings;
  for (const auto& [name, places] : types)
    for (std::size_t i = 1; i < places.size(); ++i)
      findings.push_back(places[i] + name + " is also defined at " + places[0]);
  return findings;
}

}  // namespace

TEST_CASE("every type has a name of its own") {
  Types types;
  for (const std::string& file : project_files())
    if (is_cpp(file) && !file.starts_with("tests/") && !file.starts_with("samples/"))
      add_types(file, lines_of(read_text(source_dir() / file)), types);
  expect_none(repeated(types));
  CHECK(types.size() > 50);
}

TEST_CASE("a type defined twice is found, unless one is unnamed") {
  Types types;
  add_types("a.h", {"namespace qtool {", "struct Step {", "};", "}  // namespace qtool"}, types);
  add_types("b.cpp",
            {"namespace qtool {", "namespace {", "struct Step {", "};", "}  // namespace", "class Other final {", "};",
             "}  // namespace qtool"},
            types);
  CHECK(repeated(types).empty());
  add_types("c.h", {"namespace qtool {", "class Step final : public Base {", "};", "}  // namespace qtool"}, types);
  CHECK(repeated(types) == std::vector<std::string>{"c.h:2: qtool::Step is also defined at a.h:2: "});
}

}  // namespace qtool::test

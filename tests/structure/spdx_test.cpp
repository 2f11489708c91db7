// SPDX-License-Identifier: Apache-2.0
// Every source file names its licence in the first line (the second, where the first is #!).
#include "tests/structure/tree.h"

namespace qtool::test {
namespace {

bool needs_licence_line(const std::string& file, const std::string& first_line) {
  return is_cpp(file) || first_line.starts_with("#!") || file.ends_with("CMakeLists.txt") ||
         ends_with_any(file, {".py", ".sh", ".cmake", ".yml", ".yaml", ".map", ".in"});
}

}  // namespace

TEST_CASE("every source file starts with its licence") {
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    const std::string head = read_text(source_dir() / file).substr(0, 400);
    const auto lines = lines_of(head);
    const std::string first = lines.empty() ? "" : lines[0];
    if (!needs_licence_line(file, first)) continue;
    const std::string& line = first.starts_with("#!") && lines.size() > 1 ? lines[1] : first;
    if (line != "// SPDX-License-Identifier: Apache-2.0" && line != "# SPDX-License-Identifier: Apache-2.0" &&
        line != "/* SPDX-License-Identifier: Apache-2.0 */")
      findings.push_back(place(file, 1) + "no SPDX-License-Identifier line");
  }
  expect_none(findings);
}

}  // namespace qtool::test

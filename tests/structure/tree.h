// SPDX-License-Identifier: Apache-2.0
// The source tree as these tests read it: the files that belong to the project, their lines, and findings as text
// that an editor can jump to.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support.h"

namespace qtool::test {

struct Ran {
  int status = -1;
  std::string output;
};

inline Ran run_shell(const std::string& command) {
  Ran ran;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return ran;
  std::array<char, 4096> buffer;
  for (std::size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) ran.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ran;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// Paths from the repository root, sorted: what git tracks or would add. An unpacked archive has no git: then every
/// file outside build folders and dot folders.
inline const std::vector<std::string>& project_files() {
  static const std::vector<std::string> files = [] {
    const Ran git = run_shell("git -C '" + source_dir().string() +
                              "' ls-files --cached --others --exclude-standard --deduplicate 2>/dev/null");
    std::vector<std::string> found;
    if (git.status == 0) {
      for (const std::string& path : lines_of(git.output))
        if (std::filesystem::is_regular_file(source_dir() / path)) found.push_back(path);
    } else {
      for (auto it = std::filesystem::recursive_directory_iterator(source_dir());
           it != std::filesystem::recursive_directory_iterator(); ++it) {
        const std::string name = it->path().filename().string();
        if (it->is_directory() && (name == "build" || name.front() == '.' || name == "__pycache__"))
          it.disable_recursion_pending();
        else if (it->is_regular_file())
          found.push_back(std::filesystem::relative(it->path(), source_dir()).string());
      }
    }
    std::sort(found.begin(), found.end());
    return found;
  }();
  return files;
}

inline bool ends_with_any(std::string_view text, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view e) { return text.ends_with(e); });
}

inline bool is_cpp(std::string_view path) { return ends_with_any(path, {".cpp", ".h", ".inc", ".cu", ".cuh"}); }

inline std::string place(const std::string& path, std::size_t line) { return path + ":" + std::to_string(line) + ": "; }

/// Fails with one line per finding.
inline void expect_none(const std::vector<std::string>& findings) {
  std::string all;
  for (const std::string& finding : findings) all += "\n" + finding;
  INFO(all);
  CHECK(findings.empty());
}

}  // namespace qtool::test

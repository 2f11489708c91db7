// SPDX-License-Identifier: Apache-2.0
// Help for tests: where files lie, and skipping that is seen.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace qtool::test {

inline std::filesystem::path source_dir() { return QTOOL_SOURCE_DIR; }

/// Real models and data sets for measuring; not shipped. Empty when this machine has none.
inline std::filesystem::path data_dir() {
  const char* set = std::getenv("QTOOL_DATA");
  const std::filesystem::path dir = set ? std::filesystem::path(set) : source_dir() / ".." / "shared" / "data";
  return std::filesystem::exists(dir / "models") ? std::filesystem::canonical(dir) : std::filesystem::path{};
}

/// Prints a line that the test runner counts as a skip.
inline void skip(const std::string& what, const std::string& why) {
  std::printf("SKIPPED: %s: %s\n", what.c_str(), why.c_str());
}

/// A folder of its own, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "qtool-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace qtool::test

// SPDX-License-Identifier: Apache-2.0
// A folder for what a command makes and nobody keeps, in $TMPDIR; it goes with the object.
#pragma once

#include <filesystem>
#include <string>

namespace qtool {

class TemporaryFolder {
 public:
  /// `what`: a word in its name. Error(Code::no_fit) when none can be made.
  explicit TemporaryFolder(const std::string& what);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace qtool

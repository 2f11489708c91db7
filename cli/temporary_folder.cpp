// SPDX-License-Identifier: Apache-2.0
#include "cli/temporary_folder.h"

#include <stdlib.h>

#include <system_error>

#include "formats/base/error.h"

namespace qtool {
namespace fs = std::filesystem;

TemporaryFolder::TemporaryFolder(const std::string& what) {
  std::string name = (fs::temp_directory_path() / ("qtool-" + what + "-XXXXXX")).string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw Error(Code::no_fit, "no folder can be made in " + fs::temp_directory_path().string(), "set TMPDIR");
  }
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Operators against answers of ONNX Runtime and of the ONNX reference implementation: tests/oracle/op_cases.py.
#include <algorithm>

#include "tests/calib/self_checking_model.h"
#include "tests/support.h"

namespace qtool::test {

TEST_CASE("operators agree with the answers in tests/golden/ops") {
  std::vector<std::filesystem::path> files;
  const char* other = std::getenv("QTOOL_GOLDEN_OPS");
  for (const auto& entry : std::filesystem::directory_iterator(other ? std::filesystem::path(other)
                                                                     : source_dir() / "tests" / "golden" / "ops")) {
    if (entry.path().extension() == ".onnx") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  CHECK(!files.empty());
  for (const auto& file : files) {
    for (const std::string& sentence : mismatches(file)) {
      const std::string what = file.filename().string() + ": " + sentence;
      FAIL_CHECK(what);
    }
  }
}

}  // namespace qtool::test

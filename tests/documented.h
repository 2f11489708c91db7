// SPDX-License-Identifier: Apache-2.0
// Messages that pages of the documentation show and no command can bring about: the test that sees one holds the page
// to it.
#pragma once

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "formats/base/error.h"
#include "tests/support.h"

namespace qtool::test {

/// docs/exit-codes has this message as an indented line of the page of `code`.
inline void check_documented(Code code, const std::string& message) {
  const std::string page = "docs/exit-codes/" + std::to_string(static_cast<int>(code)) + ".md";
  std::ifstream file(source_dir() / page);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  CHECK_MESSAGE(text.find("\n    " + message + "\n") != std::string::npos, page << " does not show: " << message);
}

}  // namespace qtool::test

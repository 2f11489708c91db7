// SPDX-License-Identifier: Apache-2.0
// The generated pages of docs/: written from the same declarations that the program obeys, so that they cannot
// drift. `qtool passes --markdown` prints them; tests/structure/docs_test.cpp holds the files in the tree to them.
#pragma once

#include <string>

namespace qtool {

/// docs/passes.md: every pass with effect, paper, revision and knobs, in the order of passes/list.inc.
std::string passes_markdown();
/// The table of docs/numbers.md: every number format, in the order of formats/number/list.inc.
std::string numbers_markdown();

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// The generated pages of docs/: written from the same declarations that the program obeys, so that they cannot
// drift. tests/structure/docs_test.cpp holds the files in the tree to them.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace qtool {

struct BackendDef;

/// docs/passes.md: every pass with effect, paper, revision and knobs, in the order of passes/list.inc.
std::string passes_markdown();
/// The table of docs/numbers.md: every number format, in the order of formats/number/list.inc.
std::string numbers_markdown();
/// The second table of docs/numbers.md: weights in every format and block format, with their error on normal numbers.
std::string schemes_markdown();
/// docs/targets/NAME.md: what the target is, what it runs in low precision, what it refuses, its emitter's options.
std::string target_markdown(const BackendDef&);
/// The tables of docs/recipes.md by name: sections, data, image, where, rules, steps, emit, gate.
std::vector<std::pair<std::string, std::string>> recipe_tables();

}  // namespace qtool

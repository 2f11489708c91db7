// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/recipe.h"

#include "passes/pipeline.h"
#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

void recipe(std::span<const std::byte> bytes) {
  refuses_with(Code::usage, [&] {
    const Recipe recipe = parse_recipe({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "r.yaml");
    bind_steps(recipe);
  });
}

}  // namespace qtool::fuzz

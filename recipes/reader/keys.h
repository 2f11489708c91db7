// SPDX-License-Identifier: Apache-2.0
// What a recipe may say, for its reference: the same declarations that the reader obeys.
#pragma once

#include <span>
#include <string_view>

#include "formats/base/json.h"

namespace qtool {

struct RecipeKey {
  std::string_view name, meaning;
  bool required;
};
/// Keys at the top of a recipe, in the order in which recipes are written.
std::span<const RecipeKey> recipe_keys();
/// Conditions of `where` and limits of `gate`, as describe_knobs tells knobs.
Json describe_where();
Json describe_gate();

}  // namespace qtool

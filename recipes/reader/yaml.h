// SPDX-License-Identifier: Apache-2.0
// YAML text to a tree of Settings, each with its place. One document of block or flow style; what could blow up or
// surprise is refused with its place: anchors and aliases, tags, duplicate keys, keys that are no plain text, more than
// 1 MiB, more than 32 levels, more than 100 000 nodes.
#pragma once

#include <string>
#include <string_view>

#include "recipes/reader/recipe.h"

namespace qtool {

/// Error(Code::usage) with place. An empty text is a null Setting.
Setting parse_yaml(std::string_view text, const std::string& source);

/// For a scalar that is a number in the sense of YAML (and unquoted); empty otherwise.
std::optional<std::int64_t> yaml_integer(const Setting&);
std::optional<double> yaml_number(const Setting&);
/// `true` or `false` (and the capitalized spellings of YAML 1.2).
std::optional<bool> yaml_bool(const Setting&);
/// "a list", "a map", "nothing" or the scalar in quotes: what was found, for messages.
std::string describe(const Setting&);

/// The map that `setting` is, or Error(Code::usage) that names it by `what`.
const Settings& as_map(const Setting& setting, const std::string& what);

/// Error(Code::usage) with "PLACE: TEXT".
[[noreturn]] void fail_at(const Place&, const std::string& text, std::string hint = {});

/// `; did you mean "x"?`, or nothing when no candidate is near.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace qtool

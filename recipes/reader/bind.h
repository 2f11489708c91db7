// SPDX-License-Identifier: Apache-2.0
// Knobs onto Options: binding, help, schema and fingerprint from one declaration.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/base/options.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// Whatever declares knobs: [&](Options& o) { pass->options(o); }.
using Declare = std::function<void(Options&)>;

/// Writes every setting into its knob. Error(Code::usage) with place: unknown name (nearest one told), wrong type,
/// out of range, not one of the choices. `owner` names the thing in messages: `step "gptq"`. (Not called `bind`: with
/// arguments from std, argument-dependent lookup would prefer std::bind, which does nothing.)
void bind_knobs(const Settings&, const Declare&, std::string_view owner);
/// name, type, default, range or choices, help; for `passes`, docs and the schema.
Json describe_knobs(const Declare&);
/// "group=128 weights=int4 ...": current values in declaration order; files by their SHA-256.
std::string fingerprint_knobs(const Declare&);

}  // namespace qtool

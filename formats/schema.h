// SPDX-License-Identifier: Apache-2.0
// Schemas of the JSON files that qtool writes: a member "schema" holds a name and a version, "qtool.manifest/1". The
// version rises when a reader of the old form would misread the new one; members may be added without that.
#pragma once

#include <string_view>

#include "formats/base/json.h"

namespace qtool {

namespace schema {
constexpr std::string_view lock = "qtool.lock/1", manifest = "qtool.manifest/1", report = "qtool.report/1",
                           model_diff = "qtool.model_diff/1", recipe_diff = "qtool.recipe_diff/1",
                           rebuild = "qtool.rebuild/1";
}  // namespace schema

/// Error(Code::input) unless `file` is an object of the schema `wanted` ("qtool.lock/1"); for another version of it the
/// message tells which qtool reads it. `source`: the file's name. `remake`: how such a file is made again, for the
/// hint.
void check_schema(const Json& file, std::string_view wanted, std::string_view source, std::string_view remake);

}  // namespace qtool

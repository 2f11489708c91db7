// SPDX-License-Identifier: Apache-2.0
// The data section of a recipe as DataOptions.
#pragma once

#include <string>

#include "calib/data.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// `section`: "data" or "eval", for messages. Relative paths are taken from the folder of the recipe's file.
/// Error(Code::usage) with place.
DataOptions read_data_options(const Settings&, const std::string& section);
/// The keys of such a section, and of `image` in it, as describe_knobs tells knobs.
Json describe_data();
Json describe_image();
/// Whether any data are named.
bool has_data(const DataOptions&);
/// What a file given on the command line is read as: every sample, kind by what it is.
DataOptions data_from(const std::string& path);

}  // namespace qtool

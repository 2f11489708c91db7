// SPDX-License-Identifier: Apache-2.0
// Which build this is: what one build computed and kept, another must not take for its own.
#pragma once

#include <string>

namespace qtool {

/// The identification that the linker gave the program (or libqtool), in hexadecimal; the version where it gave none.
/// Two builds of the same sources with the same compiler have the same.
const std::string& build_id();

}  // namespace qtool

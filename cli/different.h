// SPDX-License-Identifier: Apache-2.0
// The exit code of commands that compare (diff, recipe diff, rebuild --check): what was compared is not the same. It is
// a result that was asked for, and no error of a job; libqtool, which runs jobs, never gives it.
#pragma once

#include "formats/base/error.h"

namespace qtool {

inline constexpr Code different = static_cast<Code>(9);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Stopping: a wish from outside (a signal, a callback) that work looks for between its parts.
#pragma once

#include <stop_token>

namespace qtool {

/// Error(Code::interrupted) when a stop was asked for; for long loops.
void check_stop(const std::stop_token&);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace qtool {

/// The whole program but main(): finds the command, runs it, turns what it throws into a message and an exit code.
int run_program(const std::vector<std::string>& words);

}  // namespace qtool

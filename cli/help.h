// SPDX-License-Identifier: Apache-2.0
// Help in three shapes, all from the declarations of the commands: text, man page, shell completion.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"

namespace qtool {

/// A command with its arguments declared, ready to be described or parsed. Keeps what the slots point to.
struct Declared {
  explicit Declared(const CommandDef& command);
  const CommandDef& def;
  CommonOptions common;
  std::unique_ptr<Command> command;
  Arguments arguments;
};

/// "quantize [OPTIONS] --recipe RECIPE MODEL".
std::string usage_of(const Declared&);
/// `qtool --help`.
std::string help_text();
/// `qtool COMMAND --help`.
std::string help_text(const CommandDef&);
/// `qtool help exit-codes`.
std::string exit_codes_text();

struct ExitCode {
  int number;
  std::string_view meaning, what_to_do;
};
const std::vector<ExitCode>& exit_codes();

/// groff -man source of qtool(1).
std::string man_page();
/// A completion script. Requires: shell is "bash", "zsh" or "fish".
std::string completion_script(std::string_view shell);

}  // namespace qtool

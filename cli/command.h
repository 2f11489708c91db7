// SPDX-License-Identifier: Apache-2.0
// Command: one word after `qtool`. It declares what it takes, runs, and prints through the Console. One file and one
// line in list.inc each.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "cli/arguments.h"
#include "cli/console.h"

namespace qtool {

class Command {
 public:
  virtual ~Command() = default;
  virtual void arguments(Arguments&) {}
  /// What must hold before anything is computed; the arguments are known.
  virtual void begin() {}
  /// Success unless it throws.
  virtual void run(Console&) = 0;
};

struct CommandDef {
  std::string_view name, summary;
  std::string_view details;   // paragraphs for --help and the man page; may be empty
  std::string_view examples;  // lines "qtool ..."; may be empty
  bool computes = false;      // runs models: warns when the linear algebra is held narrow
  bool hidden = false;
  std::unique_ptr<Command> (*make)() = nullptr;
};

template <class T>
std::unique_ptr<Command> make_command() {
  return std::make_unique<T>();
}

std::span<const CommandDef* const> commands();
const CommandDef* find_command(std::string_view name);

/// What every command takes: --json, --log, --quiet, --verbose, --threads.
void common_arguments(Arguments&, CommonOptions&);

namespace command {
#define QTOOL_COMMAND(name) extern const CommandDef name;
#include "cli/list.inc"
#undef QTOOL_COMMAND
}  // namespace command

}  // namespace qtool

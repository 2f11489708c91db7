// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <array>

namespace qtool {
namespace {

constexpr std::array all{
#define QTOOL_COMMAND(name) &command::name,
#include "cli/list.inc"
#undef QTOOL_COMMAND
};

}  // namespace

std::span<const CommandDef* const> commands() { return all; }

const CommandDef* find_command(std::string_view name) {
  for (const CommandDef* def : all) {
    if (def->name == name) return def;
  }
  return nullptr;
}

void common_arguments(Arguments& a, CommonOptions& o) {
  constexpr std::int64_t most_threads = 4096;
  const std::size_t before = a.all().size();
  a.number("--threads", o.threads, 0, most_threads, "threads to use; 0: as many as the process may (the default)");
  a.option("--json", "FILE", o.json, "write the result as JSON to FILE; - for standard output");
  a.option("--log", "FILE", o.log, "append every fact of the run to FILE, one JSON object per line");
  a.flag("-q,--quiet", o.quiet, "no progress, no remarks, no summary; errors and warnings only");
  a.flag("-v,--verbose", o.verbose, "also tell every fact as it happens");
  a.mark_common(before);
}

}  // namespace qtool

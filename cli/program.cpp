// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>

#include "calib/linalg.h"
#include "cli/help.h"
#include "cli/signals.h"
#include "formats/base/error.h"
#include "recipes/reader/recipe.h"

namespace qtool {
namespace {

const CommandDef& command_named(const std::string& word) {
  if (const CommandDef* def = find_command(word)) return *def;
  std::vector<std::string> names;
  for (const CommandDef* def : commands()) {
    if (!def->hidden) names.emplace_back(def->name);
  }
  const std::string near = nearest(word, names);
  throw Error(Code::usage,
              (word.starts_with('-') ? "an option before the command: " : "unknown command ") + word +
                  (near.empty() ? "" : "; did you mean " + near + "?"),
              "`qtool --help` lists all commands");
}

/// A user's own choice of kernels stands, but its cost is told.
void warn_of_narrow_kernels(Console& console) {
  const char* chosen = std::getenv("OPENBLAS_CORETYPE");
  if (!chosen || !*chosen) return;
  const LinalgInfo& info = linalg_info();
  if (!info.narrow) return;
  console.warn("OPENBLAS_CORETYPE=" + std::string(chosen) + " holds " + info.library + " to the kernels of " +
               info.core + ", narrower than the " + info.widest +
               " of this processor; `qtool doctor` measures the difference");
}

void run_command(const std::vector<std::string>& words, std::optional<Console>& console, const std::stop_token& stop) {
  if (words.empty()) {
    console.emplace(CommonOptions{}, stop);
    throw Error(Code::usage, "no command given", "`qtool --help` lists all commands");
  }
  const std::string& first = words.front();
  if (first == "--help" || first == "-h" || first == "--version") {
    console.emplace(CommonOptions{}, stop);
    console->print(first == "--version" ? "qtool " QTOOL_VERSION "\n" : help_text());
    return;
  }
  Declared declared(command_named(first));
  if (!parse(first, declared.arguments, {words.begin() + 1, words.end()})) {
    console.emplace(CommonOptions{}, stop);
    console->print(help_text(declared.def));
    return;
  }
  declared.common.command = declared.def.name;
  console.emplace(declared.common, stop);
  declared.command->begin();
  if (declared.def.computes) warn_of_narrow_kernels(*console);
  declared.command->run(*console);
}

}  // namespace

int run_program(const std::vector<std::string>& words) {
  keep_standard_streams();
  const Signals signals;
  std::optional<Console> console;
  const auto report = [&](Code code, const std::string& text, const std::string& hint) {
    if (!console) console.emplace(CommonOptions{}, signals.token());
    console->error(code, text, hint);
    std::fflush(stdout);
    return static_cast<int>(code);
  };
  try {
    run_command(words, console, signals.token());
    console->finish();
    return 0;
  } catch (const Error& e) {
    return report(e.code(), e.what(), e.hint());
  } catch (const std::bad_alloc&) {
    return report(Code::no_fit, "out of memory", "use fewer threads, a smaller batch or a larger machine");
  } catch (const std::exception& e) {
    return report(Code::internal, std::string("internal error: ") + e.what(),
                  "this is a bug in qtool; please report it with the model and the recipe");
  }
}

}  // namespace qtool

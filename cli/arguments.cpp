// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "formats/base/error.h"
#include "recipes/reader/recipe.h"

namespace qtool {
namespace {

struct Declare {
  CLI::App& app;
  const Argument& argument;

  CLI::Option* operator()(bool* slot) const { return app.add_flag(flags(), *slot); }
  CLI::Option* operator()(std::int64_t* slot) const {
    return app.add_option(flags(), *slot)->check(CLI::Range(argument.lowest, argument.highest));
  }
  CLI::Option* operator()(std::string* slot) const { return app.add_option(flags(), *slot)->check(not_empty); }
  CLI::Option* operator()(std::vector<std::string>* slot) const {
    CLI::Option* option = app.add_option(flags(), *slot)->check(not_empty);
    return argument.positional() ? option : option->allow_extra_args(false);  // `--set a --set b MODEL`
  }

  std::string flags() const { return std::string(argument.flags); }
  static std::string not_empty(const std::string& text) { return text.empty() ? "the value is empty" : ""; }
};

std::vector<std::string> option_names(const Arguments& arguments) {
  std::vector<std::string> names{"--help"};
  for (const Argument& a : arguments.all()) {
    if (!a.positional()) names.emplace_back(a.name());
  }
  return names;
}

/// Before anything else: a misspelt option would otherwise be reported as the absence of another argument.
void check_option_names(const std::string& command, const Arguments& arguments, const std::vector<std::string>& words) {
  const std::vector<std::string> names = option_names(arguments);
  for (const std::string& word : words) {
    if (word == "--") return;
    if (!word.starts_with("--")) continue;
    const std::string name = word.substr(0, word.find('='));
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    const std::string near = nearest(name, names);
    throw Error(
        Code::usage,
        "unknown option " + name + " of `" + command + "`" + (near.empty() ? "" : "; did you mean " + near + "?"),
        "`" + command + " --help` lists all");
  }
}

}  // namespace

std::string_view Argument::name() const {
  const std::size_t comma = flags.rfind(',');
  return comma == std::string_view::npos ? flags : flags.substr(comma + 1);
}

bool parse(std::string_view command, const Arguments& arguments, const std::vector<std::string>& words) {
  const std::string program = "qtool " + std::string(command);
  const std::string hint = "`" + program + " --help` tells how it is called";
  try {
    CLI::App app("", program);
    for (const Argument& a : arguments.all()) {
      CLI::Option* option = std::visit(Declare{app, a}, a.slot);
      if (a.required) option->required();
    }
    const auto end = std::find(words.begin(), words.end(), "--");
    if (std::any_of(words.begin(), end, [](const auto& w) { return w == "--help" || w == "-h"; })) return false;
    check_option_names(program, arguments, words);
    std::vector<std::string> reversed(words.rbegin(), words.rend());  // CLI11 takes them from the back
    app.parse(std::move(reversed));
    return true;
  } catch (const CLI::RequiredError& e) {
    std::string text = e.what();
    throw Error(Code::usage, "`" + program + "`: " + text, hint);
  } catch (const CLI::ParseError& e) {
    throw Error(Code::usage, "`" + program + "`: " + e.what(), hint);
  }
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "backends/backend.h"
#include "cli/help.h"
#include "cli/text.h"
#include "passes/pass.h"
#include "recipes/reader/recipe.h"

namespace qtool {
namespace {

/// Words that can stand where an argument shows `value`; empty: a file.
std::vector<std::string> words_for(std::string_view value) {
  std::vector<std::string> words;
  if (value == "RECIPE") {
    for (const auto& [name, text] : shipped_recipes()) words.push_back(name);
  } else if (value == "TARGET") {
    for (const BackendDef* def : backends()) words.emplace_back(def->name);
  } else if (value == "PASS") {
    for (const PassDef* def : passes()) words.emplace_back(def->name);
  } else if (value == "SHELL") {
    words = {"bash", "zsh", "fish"};
  } else if (value == "ACTION") {
    words = {"list", "show", "check"};
  } else if (value == "TOPIC") {
    words = {"exit-codes"};
    for (const CommandDef* def : commands()) {
      if (!def->hidden) words.emplace_back(def->name);
    }
  }
  return words;
}

bool takes_file(std::string_view value) {
  return value == "FILE" || value == "DATA" || value == "MODEL" || value == "RECIPE" || value == "A" || value == "B";
}

std::vector<std::string> flags_of(const Argument& a) {
  std::vector<std::string> flags;
  for (std::size_t at = 0; at <= a.flags.size();) {
    const std::size_t end = std::min(a.flags.find(',', at), a.flags.size());
    flags.emplace_back(a.flags.substr(at, end - at));
    at = end + 1;
  }
  return flags;
}

std::vector<const CommandDef*> shown() {
  std::vector<const CommandDef*> all;
  for (const CommandDef* def : commands()) {
    if (!def->hidden) all.push_back(def);
  }
  return all;
}

/// For bash, and for zsh through its bashcompinit: `compgen` over words and files.
std::string bash_script() {
  std::string names;
  for (const CommandDef* def : shown()) names += (names.empty() ? "" : " ") + std::string(def->name);
  std::string text =
      "# bash completion of qtool: source it, or install it as bash-completion/completions/qtool\n"
      "_qtool() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} words= files=\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
      "    COMPREPLY=($(compgen -W '" +
      names +
      " --help --version' -- \"$word\"))\n"
      "    return\n  fi\n"
      "  case ${COMP_WORDS[1]} in\n";
  for (const CommandDef* def : shown()) {
    const Declared declared(*def);
    std::string options = "--help", arms, positional_words;
    bool positional_file = false;
    for (const Argument& a : declared.arguments.all()) {
      if (a.hidden) continue;
      if (a.positional()) {
        positional_file = positional_file || takes_file(a.value);
        positional_words += " " + joined(words_for(a.value));
        continue;
      }
      options += " " + std::string(a.name());
      if (a.value.empty()) continue;
      std::string pattern;
      for (const std::string& flag : flags_of(a)) pattern += (pattern.empty() ? "" : "|") + flag;
      arms += "        " + pattern + ") words='" + joined(words_for(a.value)) +
              "' files=" + (takes_file(a.value) ? "1" : "") + " ;;\n";
    }
    text += "    " + std::string(def->name) + ")\n      case $last in\n" + arms + "        *) words='" + options +
            positional_words + "' files=" + (positional_file ? "1" : "") + " ;;\n      esac ;;\n";
  }
  return text +
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
         "  if [ -n \"$files\" ]; then COMPREPLY+=($(compgen -f -- \"$word\")); fi\n"
         "}\n"
         "complete -o filenames -F _qtool qtool\n";
}

std::string fish_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_script() {
  std::string text =
      "# fish completion of qtool: install it as completions/qtool.fish\n"
      "complete -c qtool -n __fish_use_subcommand -f -l help -d 'this text'\n"
      "complete -c qtool -n __fish_use_subcommand -f -l version -d 'the version'\n";
  for (const CommandDef* def : shown()) {
    const std::string name(def->name);
    text += "complete -c qtool -n __fish_use_subcommand -f -a " + name + " -d " + fish_quoted(def->summary) + "\n";
    const Declared declared(*def);
    for (const Argument& a : declared.arguments.all()) {
      if (a.hidden) continue;
      const std::string words = joined(words_for(a.value));
      std::string line = "complete -c qtool -n '__fish_seen_subcommand_from " + name + "'";
      if (a.positional()) {
        if (words.empty()) continue;
        line += " -a " + fish_quoted(words);
      } else {
        for (const std::string& flag : flags_of(a)) {
          line += flag.starts_with("--") ? " -l " + flag.substr(2) : " -s " + flag.substr(1);
        }
        if (!a.value.empty()) line += takes_file(a.value) ? " -r -F" : " -x";
        if (!words.empty()) line += " -a " + fish_quoted(words);
        line += " -d " + fish_quoted(a.help);
      }
      text += line + "\n";
    }
  }
  return text;
}

}  // namespace

std::string completion_script(std::string_view shell) {
  if (shell == "fish") return fish_script();
  if (shell == "zsh") {
    return "#compdef qtool\n# zsh completion of qtool: source it, or install it as _qtool in a folder of $fpath\n"
           "autoload -Uz bashcompinit && bashcompinit\n" +
           bash_script();
  }
  return bash_script();
}

}  // namespace qtool

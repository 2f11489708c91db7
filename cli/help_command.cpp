// SPDX-License-Identifier: Apache-2.0
// The commands that tell about commands: help, completion, man.
#include "cli/command.h"
#include "cli/help.h"
#include "formats/base/error.h"
#include "recipes/reader/recipe.h"

namespace qtool {
namespace {

class Help final : public Command {
  std::string topic_;

 public:
  void arguments(Arguments& a) override {
    a.positional("TOPIC", topic_, "a command, or exit-codes (default: all commands)").required = false;
  }
  void run(Console& console) override {
    if (topic_.empty()) return console.print(help_text());
    if (topic_ == "exit-codes") return exit_codes_to(console);
    if (const CommandDef* def = find_command(topic_)) return console.print(help_text(*def));
    std::vector<std::string> topics{"exit-codes"};
    for (const CommandDef* def : commands()) topics.emplace_back(def->name);
    const std::string near = nearest(topic_, topics);
    throw Error(Code::usage, "no help on " + topic_ + (near.empty() ? "" : "; did you mean " + near + "?"),
                "`qtool help` lists all commands");
  }

 private:
  static void exit_codes_to(Console& console) {
    console.print(exit_codes_text());
    Json list = Json::array();
    for (const ExitCode& code : exit_codes()) {
      Json row = Json::object();
      list.push(row.set("code", code.number).set("meaning", code.meaning).set("what_to_do", code.what_to_do));
    }
    Json report = Json::object();
    console.result(report.set("schema", "qtool.exit_codes/1").set("exit_codes", std::move(list)));
  }
};

class Completion final : public Command {
  std::string shell_;

 public:
  void arguments(Arguments& a) override { a.positional("SHELL", shell_, "bash, zsh or fish"); }
  void run(Console& console) override {
    if (shell_ != "bash" && shell_ != "zsh" && shell_ != "fish") {
      throw Error(Code::usage, "no completion for the shell \"" + shell_ + "\"", "shells: bash, zsh, fish");
    }
    console.print(completion_script(shell_));
  }
};

class Man final : public Command {
  void run(Console& console) override { console.print(man_page()); }
};

}  // namespace

constinit const CommandDef command::help{"help",
                                         "tell about a command, or about exit codes",
                                         "",
                                         "qtool help quantize\nqtool help exit-codes",
                                         false,
                                         false,
                                         make_command<Help>};

constinit const CommandDef command::completion{
    "completion",
    "print a completion script for a shell",
    "",
    "source <(qtool completion bash)\nqtool completion fish > ~/.config/fish/completions/qtool.fish",
    false,
    false,
    make_command<Completion>};

constinit const CommandDef command::man{"man", "print the man page", "", "qtool man | man -l -", false,
                                        true,  make_command<Man>};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/help.h"

#include "cli/text.h"

namespace qtool {
namespace {

constexpr std::size_t help_column = 26;

std::string label_of(const Argument& a) {
  if (a.positional()) return std::string(a.flags);
  std::string text;
  for (const char c : a.flags) text += c == ',' ? std::string(", ") : std::string(1, c);
  return text + (a.value.empty() ? "" : " " + std::string(a.value));
}

std::string entry(const std::string& label, std::string_view help) {
  std::string line = "  " + label;
  if (line.size() + 2 > help_column) {
    line += "\n" + std::string(help_column, ' ');
  } else {
    line.resize(help_column, ' ');
  }
  return line + wrapped(help, help_column) + "\n";
}

template <class Keep>
std::string section(const char* title, const Declared& declared, const Keep& keep) {
  std::string text;
  for (const Argument& a : declared.arguments.all()) {
    if (!a.hidden && keep(a)) text += entry(label_of(a), a.help);
  }
  return text.empty() ? "" : "\n" + std::string(title) + ":\n" + text;
}

}  // namespace

Declared::Declared(const CommandDef& d) : def(d), command(d.make()) {
  command->arguments(arguments);
  common_arguments(arguments, common);
}

std::string usage_of(const Declared& declared) {
  std::string text = std::string(declared.def.name) + " [OPTIONS]";
  for (const Argument& a : declared.arguments.all()) {
    if (!a.positional() && a.required) text += " " + std::string(a.name()) + " " + std::string(a.value);
  }
  for (const Argument& a : declared.arguments.all()) {
    if (!a.positional()) continue;
    const bool many = std::holds_alternative<std::vector<std::string>*>(a.slot);
    const std::string word = std::string(a.flags) + (many ? "..." : "");
    text += a.required ? " " + word : " [" + word + "]";
  }
  return text;
}

std::string help_text() {
  std::string text = "qtool " QTOOL_VERSION
                     ": post-training quantization of ONNX models\n\nUsage: qtool COMMAND [OPTIONS] ...\n\n"
                     "Commands:\n";
  for (const CommandDef* def : commands()) {
    if (!def->hidden) text += entry(std::string(def->name), def->summary);
  }
  return text + "\nOptions:\n" + entry("-h, --help", "this text; after a command, its options and examples") +
         entry("--version", "the version") +
         "\nExample:\n"
         "  qtool quantize model.onnx --recipe int8_static --calib samples.npz --eval held_out.npz -o model.int8.onnx\n"
         "\n`qtool help exit-codes` tells what each exit code means.\n";
}

std::string help_text(const CommandDef& def) {
  const Declared declared(def);
  std::string text = "qtool " + std::string(def.name) + ": " + std::string(def.summary) + "\n\nUsage: qtool " +
                     usage_of(declared) + "\n";
  if (!def.details.empty()) text += "\n" + std::string(def.details) + "\n";
  text += section("Arguments", declared, [](const Argument& a) { return a.positional(); });
  text += section("Options", declared, [](const Argument& a) { return !a.positional() && !a.common; });
  text += section("Common options", declared, [](const Argument& a) { return a.common; });
  text += entry("-h, --help", "this text");
  if (!def.examples.empty()) {
    text += "\nExamples:\n  ";
    for (const char c : def.examples) text += c == '\n' ? std::string("\n  ") : std::string(1, c);
    text += "\n";
  }
  return text;
}

const std::vector<ExitCode>& exit_codes() {
  static const std::vector<ExitCode> codes = {
      {0, "success", ""},
      {1, "a bug in qtool", "report it with the model and the recipe"},
      {2, "command line or recipe", "the message names the option or the place in the recipe"},
      {3, "the quantized model missed the gate; nothing was written",
       "loosen the limit, keep the worst layers float, or take another recipe"},
      {4, "not enough memory or disk", "free some, use fewer threads or a smaller batch"},
      {5, "a model file that is broken, or uses what qtool or the target cannot carry",
       "the message names the node or the place in the file"},
      {6, "a size or bit budget that no choice can meet", "raise the budget"},
      {7, "calibration or evaluation data that do not fit the model",
       "compare names, types and shapes with `qtool inspect MODEL`"},
      {8, "the written file failed its own check; nothing was published",
       "report it with the model and the recipe; an older file at the output path is as it was"},
      {9, "two things that were compared are not the same", "what differs was printed, or stands in the --json result"},
      {75, "stopped by a signal; nothing was written", "run the same command again"},
  };
  return codes;
}

std::string exit_codes_text() {
  Table table({"code", "means", "what to do"});
  table.left(1).left(2);
  for (const ExitCode& code : exit_codes()) {
    table.row({std::to_string(code.number), std::string(code.meaning), std::string(code.what_to_do)});
  }
  return table.text();
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// The man page as groff -man source. `qtool man | man -l -` shows it.
#include "cli/help.h"

namespace qtool {
namespace {

/// Backslashes, hyphens and leading control characters of roff made literal.
std::string roff(std::string_view text) {
  std::string out;
  bool line_start = true;
  for (const char c : text) {
    if (line_start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
    line_start = c == '\n';
  }
  return out;
}

std::string bold(std::string_view text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(std::string_view text) { return "\\fI" + roff(text) + "\\fR"; }

std::string argument_entry(const Argument& a) {
  if (a.positional()) return ".TP\n" + italic(a.flags) + "\n" + roff(a.help) + "\n";
  std::string label;
  for (std::size_t at = 0; at <= a.flags.size();) {
    const std::size_t end = std::min(a.flags.find(',', at), a.flags.size());
    label += (label.empty() ? "" : ", ") + bold(a.flags.substr(at, end - at));
    at = end + 1;
  }
  if (!a.value.empty()) label += " " + italic(a.value);
  return ".TP\n" + label + "\n" + roff(a.help) + "\n";
}

std::string command_section(const CommandDef& def) {
  const Declared declared(def);
  std::string text = ".SS qtool " + roff(usage_of(declared)) + "\n" + roff(def.summary) + ".\n";
  if (!def.details.empty()) text += ".PP\n" + roff(def.details) + "\n";
  for (const Argument& a : declared.arguments.all()) {
    if (!a.hidden && !a.common) text += argument_entry(a);
  }
  if (!def.examples.empty()) text += ".PP\n.nf\n" + roff(def.examples) + "\n.fi\n";
  return text;
}

}  // namespace

std::string man_page() {
  std::string text =
      ".TH QTOOL 1 \"\" \"qtool " QTOOL_VERSION
      "\" \"User Commands\"\n.SH NAME\nqtool \\- post\\-training quantization of ONNX models\n"
      ".SH SYNOPSIS\n.B qtool\n.I COMMAND\n.RI [ OPTIONS ]\n.SH DESCRIPTION\n"
      "qtool reads an ONNX model, runs the passes that a YAML recipe names, and writes a quantized model that ONNX\n"
      "Runtime runs on integer kernels. The written file is checked by an independent reader, run again, compared "
      "with\n"
      "the float model, and withheld when it misses the recipe's gate. Results go to standard output, everything else\n"
      "to standard error.\n.SH COMMANDS\n";
  for (const CommandDef* def : commands()) {
    if (!def->hidden) text += command_section(*def);
  }
  text += ".SH COMMON OPTIONS\n";
  const Declared any(*commands().front());
  for (const Argument& a : any.arguments.all()) {
    if (a.common) text += argument_entry(a);
  }
  text += ".TP\n" + bold("-h") + ", " + bold("--help") + "\nOptions and examples of a command.\n.SH EXIT STATUS\n";
  for (const ExitCode& code : exit_codes()) {
    text += ".TP\n" + bold(std::to_string(code.number)) + "\n" + roff(code.meaning);
    text += (code.what_to_do.empty() ? "" : "; " + roff(code.what_to_do)) + ".\n";
  }
  text +=
      ".SH ENVIRONMENT\n.TP\n" + bold("NO_COLOR") + "\nNo colors on a terminal.\n.TP\n" + bold("OPENBLAS_CORETYPE") +
      "\nHolds OpenBLAS to these kernels; without it qtool chooses those that fit the processor.\n"
      ".SH FILES\nAn output path holds the old file or the whole new one, never half. Until then the new one is in a\n"
      "folder beside it whose name starts with " +
      bold(".qtool-") + ".\n";
  return text;
}

}  // namespace qtool

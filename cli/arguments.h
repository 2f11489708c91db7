// SPDX-License-Identifier: Apache-2.0
// Arguments: what a command takes, declared once. The parser, --help, the man page and shell completion all read
// this list. CLI11 is behind parse() in arguments.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace qtool {

struct Argument {
  std::string_view flags;  // "-o,--output"; a bare word is positional: "MODEL"
  std::string_view value;  // what follows the flag: "FILE", "RECIPE"; empty: a switch
  std::string_view help;
  bool required = false;
  bool common = false;  // offered by every command
  bool hidden = false;
  std::variant<bool*, std::int64_t*, std::string*, std::vector<std::string>*> slot;
  std::int64_t lowest = 0, highest = 0;  // of std::int64_t

  bool positional() const { return !flags.starts_with('-'); }
  /// "--output" of "-o,--output".
  std::string_view name() const;
};

class Arguments {
 public:
  /// A positional argument. A vector takes all that follow.
  template <class Slot>
  Argument& positional(std::string_view name, Slot& slot, std::string_view help) {
    return add({name, name, help, true, false, false, &slot});
  }
  /// --flag VALUE. A vector collects one value per occurrence.
  template <class Slot>
  Argument& option(std::string_view flags, std::string_view value, Slot& slot, std::string_view help) {
    return add({flags, value, help, false, false, false, &slot});
  }
  Argument& number(std::string_view flags, std::int64_t& slot, std::int64_t lowest, std::int64_t highest,
                   std::string_view help) {
    return add({flags, "N", help, false, false, false, &slot, lowest, highest});
  }
  Argument& flag(std::string_view flags, bool& slot, std::string_view help) {
    return add({flags, "", help, false, false, false, &slot});
  }

  const std::vector<Argument>& all() const { return all_; }
  /// All from position `first` on are offered by every command.
  void mark_common(std::size_t first) {
    for (std::size_t i = first; i < all_.size(); ++i) all_[i].common = true;
  }

 private:
  Argument& add(const Argument& argument) { return all_.emplace_back(argument); }
  std::vector<Argument> all_;
};

/// Fills the slots. False: help was asked for. Error(Code::usage) with the nearest option for anything else;
/// `command` names the command in messages.
bool parse(std::string_view command, const Arguments&, const std::vector<std::string>& words);

}  // namespace qtool

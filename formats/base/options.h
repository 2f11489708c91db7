// SPDX-License-Identifier: Apache-2.0
// Options: one list of knobs, read many ways. A pass, emitter or observer declares its knobs once, in
// options(Options&); the same declaration binds YAML, prints help, writes the schema and feeds the
// fingerprint. A reader is a subclass that implements visit().
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace qtool {

struct NumberFormat;
struct Scheme;

/// One declared knob: where its value lives, what it means, which values are legal.
struct Knob {
  std::string_view name;
  std::string_view help;
  std::variant<bool*, std::int64_t*, double*, std::string*, std::vector<std::string>*, const NumberFormat**,
               const Scheme**>
      slot;
  double lowest = -std::numeric_limits<double>::infinity();  // numbers: inclusive bounds
  double highest = std::numeric_limits<double>::infinity();
  std::vector<std::string_view> choices;  // strings: the legal words; empty: any
  bool is_file = false;                   // strings: a path, seen from the folder of the recipe; may be empty
};

class Options {
 public:
  virtual ~Options() = default;
  void operator()(std::string_view name, bool& slot, std::string_view help) { visit({name, help, &slot, 0, 0, {}}); }
  void operator()(std::string_view name, std::int64_t& slot, std::string_view help, double lowest, double highest) {
    visit({name, help, &slot, lowest, highest, {}});
  }
  void operator()(std::string_view name, double& slot, std::string_view help, double lowest, double highest) {
    visit({name, help, &slot, lowest, highest, {}});
  }
  void operator()(std::string_view name, std::string& slot, std::string_view help,
                  std::initializer_list<std::string_view> choices = {}) {
    visit({name, help, &slot, 0, 0, choices});
  }
  /// A file that is read, whose bytes stand for it in the fingerprint; empty: none.
  void file(std::string_view name, std::string& slot, std::string_view help) {
    visit({name, help, &slot, 0, 0, {}, true});
  }
  void operator()(std::string_view name, std::vector<std::string>& slot, std::string_view help) {
    visit({name, help, &slot, 0, 0, {}});
  }
  void operator()(std::string_view name, const NumberFormat*& slot, std::string_view help) {
    visit({name, help, &slot, 0, 0, {}});
  }
  void operator()(std::string_view name, const Scheme*& slot, std::string_view help) {
    visit({name, help, &slot, 0, 0, {}});
  }

 protected:
  virtual void visit(const Knob&) = 0;
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Error: the one exception of qtool. A command that cannot go on throws it; cli/main.cpp catches it,
// prints one sentence and exits with the number of its Code. Nothing outside cli prints or exits.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace qtool {

/// What went wrong, which is also the exit code (docs/exit-codes has a page for each).
enum class Code : std::uint8_t {
  internal = 1,      // a bug in qtool
  usage = 2,         // command line or recipe
  gate = 3,          // the quantized model missed a limit that the recipe set
  no_fit = 4,        // memory or disk
  input = 5,         // a model file that is broken, or uses what qtool or the target cannot carry
  budget = 6,        // a size or bit budget that no choice can meet
  calibration = 7,   // calibration or evaluation data that do not fit the model
  verification = 8,  // the written file failed its own check
  different = 9,     // what commands compare is not the same: a result that was asked for, never one of a job
  interrupted = 75,  // stopped by a signal; the same command continues
};

std::string_view name_of(Code);

class Error : public std::runtime_error {
 public:
  /// `message`: one sentence that says what and where. `hint`: what to do; may be empty.
  Error(Code code, const std::string& message, std::string hint = {})
      : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}
  Code code() const { return code_; }
  const std::string& hint() const { return hint_; }

 private:
  Code code_;
  std::string hint_;
};

[[noreturn]] void broken_claim(const char* condition, const char* claim, const char* file, int line);

}  // namespace qtool

/// A truth that holds unless qtool has a bug; checked in release builds too.
#define QTOOL_ENSURE(condition, claim) \
  ((condition) ? void(0) : ::qtool::broken_claim(#condition, claim, __FILE__, __LINE__))

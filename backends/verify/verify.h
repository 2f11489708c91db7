// SPDX-License-Identifier: Apache-2.0
// Verification of written files by code of its own: nothing here shares code with the writer, the emitters or the
// passes, so that a mistake of theirs is not shared by their judge. See docs/verify.md for what is checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "formats/base/journal.h"
#include "formats/base/threads.h"
#include "formats/target.h"

namespace qtool {

struct Lock;  // formats/lock.h

/// One mistake: a tensor or node, what is wrong with it, and what to do.
struct Defect {
  std::string where, what, advice;
  /// node "wd" (DequantizeLinear): scale 1 is 0
  std::string text() const { return where + ": " + what; }
  friend bool operator==(const Defect&, const Defect&) = default;
};

/// Why a constant that is held as codes was not compared with the model.
struct NotCompared {
  std::string node, tensor, why;
};

struct Verification {
  static constexpr std::size_t most = 100;
  std::vector<Defect> defects;    // the first `most` of those found
  std::vector<Defect> inherited;  // those of the model, which the file only repeats; the same bound
  std::int64_t found = 0;
  std::int64_t nodes = 0, codes = 0;  // looked at: nodes with bodies, elements held as codes
  // Against a model:
  std::int64_t weights = 0, biases = 0, floats = 0;  // tensors compared: codes, biases, what stayed float
  std::int64_t elements = 0;
  std::vector<NotCompared> not_compared;
  std::int64_t hashes = 0, errors = 0, outputs = 0;  // of the lock, derived again; the last: errors of outputs
  bool clean() const { return found == 0; }
};

/// What enters products of the float model, for the errors of what they put out: some rows each, by the name of the
/// node, or of its first output. A row of a Conv is the patch below its kernel, channels before taps, of all groups;
/// zero outside the image.
struct InputRows {
  std::int64_t count = 0, width = 0;
  std::vector<float> values;  // [count, width]
};
using LayerInputs = std::map<std::string, InputRows, std::less<>>;

struct VerifyRequest {
  std::filesystem::path file;
  const Target* target = nullptr;
  std::filesystem::path against;  // the float model; empty: the file alone
  const Lock* lock = nullptr;     // with `against`: which folds were applied, hashes and errors of codes
  /// Codes to compare with the model: of larger files an equal share of every tensor; 0: all.
  std::int64_t most_codes = 0;
  bool derive = true;                   // hashes and errors of the lock, anew
  const LayerInputs* inputs = nullptr;  // with `lock`: of the data that its errors of outputs were measured on
};

/// Reads the file mapped and finds all that a runtime relies on and does not check itself. Error(Code::verification)
/// when the file is no ONNX file at all, Error(Code::input) when the model is none.
Verification verify_file(const VerifyRequest&, Threads&);

/// The same for a file that was just written: Error(Code::verification) naming the first defect; the others are
/// warnings in the journal.
Verification expect_verified(const VerifyRequest&, Threads&, Journal&);

}  // namespace qtool

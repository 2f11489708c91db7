// SPDX-License-Identifier: Apache-2.0
// The ledger of what is known not to conform, and why: lines "name reason", or "set:name reason" for one set of cases
// alone. A failure that is not listed fails the test, and so does a listed case that passes. A reason that begins with
// "out of scope: " is about what qtool does not compute with: text, sequences, optional values, training, tables of
// ai.onnx.ml. Everything else is in scope: inference over tensors of numbers and truth values.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "calib/executor.h"
#include "formats/ir/tensor.h"

namespace qtool::test {

class Ledger {
 public:
  /// Reads the lines of tests/conformance/ledger.txt that are about `set`, or about all sets.
  explicit Ledger(const std::string& set);
  /// Reports case `name`: `failure` is empty when it conforms.
  void report(const std::string& name, const std::optional<std::string>& failure);
  /// The reason listed for `name`; empty: not listed.
  std::string reason(const std::string& name) const;
  /// Fails on lines of this set alone whose case was not reported.
  void check_used() const;
  int passed() const { return passed_; }
  int excused() const { return excused_; }  // in scope
  int out_of_scope() const { return out_of_scope_; }

 private:
  std::map<std::string, std::string> reasons_;
  std::set<std::string> unused_;
  int passed_ = 0, excused_ = 0, out_of_scope_ = 0;
};

/// Where and how `got` differs from `want`; empty: they agree. Floats: |got - want| <= absolute + relative |want|.
std::optional<std::string> difference(const Tensor& got, const Tensor& want, double relative, double absolute);

}  // namespace qtool::test

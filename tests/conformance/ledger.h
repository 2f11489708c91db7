// SPDX-License-Identifier: Apache-2.0
// The ledger of what is known not to conform, and why: lines "name reason". A failure that is not listed fails the
// test, and so does a listed case that passes.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "calib/executor.h"
#include "formats/ir/tensor.h"

namespace qtool::test {

class Ledger {
 public:
  /// Reads tests/conformance/ledger.txt.
  Ledger();
  /// Reports case `name`: `failure` is empty when it conforms.
  void report(const std::string& name, const std::optional<std::string>& failure);
  /// The reason listed for `name`; empty: not listed.
  std::string reason(const std::string& name) const;
  int passed() const { return passed_; }
  int excused() const { return excused_; }

 private:
  std::map<std::string, std::string> reasons_;
  int passed_ = 0, excused_ = 0;
};

/// Where and how `got` differs from `want`; empty: they agree. Floats: |got - want| <= absolute + relative |want|.
std::optional<std::string> difference(const Tensor& got, const Tensor& want, double relative, double absolute);

}  // namespace qtool::test

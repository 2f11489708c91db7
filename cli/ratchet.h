// SPDX-License-Identifier: Apache-2.0
// The ratchet: a model is not published when it is worse than the last one was, told by that one's report.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "calib/compare.h"
#include "cli/gate.h"
#include "formats/base/json.h"

namespace qtool {

class Ratchet {
 public:
  /// The report that `qtool quantize --json` wrote. Error(Code::usage) when it is none, or was measured on no held-out
  /// data.
  explicit Ratchet(const std::filesystem::path& report);
  /// Error(Code::usage) when the report was measured on other data. `evaluation`: their digest.
  void check_data(const std::string& evaluation) const;
  /// Limits at the figures of the report: size, and per output signal-to-noise ratio, KL, agreement and accuracy lost.
  std::vector<GateLimit> judge(const Comparison&, std::uint64_t output_bytes) const;
  /// Error(Code::gate) for every figure that is worse, by more than chance in the samples could make it.
  void hold(const std::vector<GateLimit>&) const;

 private:
  Gate gate_;  // the place; limits differ from output to output
  Json report_;
};

}  // namespace qtool

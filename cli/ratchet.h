// SPDX-License-Identifier: Apache-2.0
// The ratchet: a model is not published when it is worse than the last one was, told by that one's report. The report
// holds what every held-out sample lost, so that two models are compared sample by sample where the data are the same.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "calib/compare.h"
#include "cli/gate.h"
#include "formats/base/json.h"

namespace qtool {

/// What every sample lost, for a later run: per output {"name", "signal", "noise", of scores "rows", "disagree", "kl",
/// with labels "labelled", "drop"}, lists in the order of the data, to six digits; one number where all are the same.
Json losses_json(const Comparison&);

class Ratchet {
 public:
  /// The report that `qtool quantize --json` wrote. Error(Code::usage) when it is none, or was measured on no held-out
  /// data.
  explicit Ratchet(const std::filesystem::path& report);
  /// `evaluation`: digest of the held-out data. Empty: the same as the report's, models are compared in pairs; else a
  /// sentence that they are others. Error(Code::usage) for others when the report does not tell what samples lost.
  std::string check_data(const std::string& evaluation);
  /// Limits at the figures of the report: size, and per output signal-to-noise ratio, KL, agreement and accuracy lost,
  /// with one-sided bounds at 95 % of the difference. Differences below a thousandth of a figure are none.
  std::vector<GateLimit> judge(const Comparison&, std::uint64_t output_bytes) const;
  /// Error(Code::gate) for every figure that is worse, by more than chance in the samples could make it.
  void hold(const std::vector<GateLimit>&) const;

 private:
  Gate gate_;  // the place; limits differ from output to output
  Json report_;
  bool same_data_ = true;
};

}  // namespace qtool

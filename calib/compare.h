// SPDX-License-Identifier: Apache-2.0
// Comparing two runs: per value and at the outputs. One implementation serves eval, compare, the gate, sensitivity,
// search and reports.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "calib/data.h"
#include "formats/base/json.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Error of one value, accumulated in double in batch order. All of the four must be looked at: each sees
/// something else.
struct ErrorStats {
  double signal = 0, noise = 0, dot = 0, norm2 = 0;  // sums of x^2, (x-y)^2, x*y, y^2
  double max_abs = 0, max_signal = 0;
  std::int64_t count = 0;
  std::int64_t not_finite = 0;                 // elements of y that are NaN or infinite
  double low = 0, high = 0;                    // range of y: equal means a constant output
  void add(const Tensor& x, const Tensor& y);  // reference, candidate; any numeric type
  double sqnr_db() const;                      // +inf when equal
  double cosine() const;
};

/// Outputs that are class scores: last axis = classes.
struct ClassStats {
  std::int64_t samples = 0, agree = 0;
  std::int64_t labelled = 0, reference_right = 0, candidate_right = 0;
  double kl = 0;  // sum over samples of KL(reference || candidate), nats
};

struct OutputReport {
  std::string name;
  ErrorStats error;
  bool scores = false;  // float, rank >= 2, last axis in 2 .. 100000
  ClassStats classes;
};

struct Comparison {
  std::vector<OutputReport> outputs;
  std::vector<std::pair<std::string, double>> worst_layers;  // value name, SQNR dB, ascending
  std::int64_t samples = 0;
  Json json() const;
};

/// Runs `reference` (reference reading) and `candidate` (given reading) on the same data. Outputs are matched by
/// name. `layers`: also compare intermediate values of equal name. Whether an output holds probabilities or logits
/// is told from the reference (rows in [0,1] that sum to one).
Comparison compare(const Graph& reference, const Graph& candidate, Reading reading, const Dataset& data,
                   Threads& threads, bool layers,
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

}  // namespace qtool

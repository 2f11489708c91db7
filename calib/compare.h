// SPDX-License-Identifier: Apache-2.0
// Comparing two runs: per value and at the outputs. One implementation serves eval, compare, the gate, sensitivity,
// search and reports.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "calib/data.h"
#include "calib/known_outputs.h"
#include "formats/base/bytes.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/kept.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Error of one value. Sums are in double, of 32 partial sums each, by the place of an element in the stream of all
/// batches: neither the cut into batches nor the vectors of the processor enter. All of the numbers must be looked at:
/// each sees something else. Elements that are not finite in both alike count as equal and stay out of the sums.
class ErrorStats {
 public:
  double max_abs = 0, max_signal = 0;    // largest |x-y|, largest |x|
  std::int64_t count = 0, compared = 0;  // elements seen; of them in the sums
  std::int64_t not_finite = 0;           // elements NaN or infinite in one, not alike in the other
  double low = 0, high = 0;              // range of y, of those compared: equal means a constant output
  /// Reference, candidate: any numeric type. Error(Code::verification) when the shapes differ.
  void add(const Tensor& x, const Tensor& y);
  void add(std::span<const float> x, std::span<const float> y);  // of one size
  double signal() const { return total(signal_); }               // sum of x^2
  double noise() const { return total(noise_); }                 // of (x-y)^2
  /// 10 log10(signal / noise); +inf when equal; -inf when only the reference is zero, or when not_finite.
  double sqnr_db() const;
  double cosine() const;  // 1 when both are zero
  /// All that was added, for later.
  void write(ByteWriter&) const;
  void read(ByteReader&);

 private:
  using Lanes = std::array<double, 32>;
  static double total(const Lanes&);
  struct Round;
  /// As many elements as there are lanes, `rounds` times.
  void add_rounds(const float* x, const float* y, std::size_t rounds);
  Lanes signal_{}, noise_{}, dot_{}, norm2_{};  // the last two: sums of x*y, y^2
};

/// Outputs that are class scores: a float of rank 2 or 3, last axis = 2 .. 100000 classes. A row is one sample (rank 2)
/// or one position of one (rank 3).
struct ClassStats {
  std::int64_t samples = 0, agree = 0;  // rows; rows whose best class is the same (ties: the first)
  std::int64_t labelled = 0, reference_right = 0, candidate_right = 0;  // rows with a label in 0 .. classes-1
  /// Sum over rows of KL(reference || candidate), nats; probabilities of the candidate below 2^-24 count as that.
  /// Infinite when a row of the candidate is not finite.
  double kl = 0;
};

/// What one sample lost; the unit of chance in the gate's bounds. A sample whose rows cannot be told from those of the
/// others in its batch counts with the whole batch.
struct SampleLoss {
  double signal = 0, noise = 0;            // sums of x^2 and (x-y)^2; infinite noise for numbers that are not finite
  double rows = 0, agree = 0, kl = 0;      // as in ClassStats, of scores
  double labelled = 0, lost = 0, won = 0;  // rows with a label; right in the reference alone, in the candidate alone
  double surprise = 0;                     // sum over labelled rows of ln p(label): reference - candidate, nats
};

struct OutputReport {
  std::string name;
  ErrorStats error;
  bool scores = false;
  ClassStats classes;
  std::vector<SampleLoss> samples;  // in the order of the data
};

struct Comparison {
  std::vector<OutputReport> outputs;
  std::vector<std::pair<std::string, double>> worst_layers;  // value name, SQNR dB, ascending; all that both have
  std::int64_t samples = 0;
  /// {"samples", "outputs": [{"name", "sqnr_db", "cosine", "max_abs", "max_signal", "elements", "not_finite", "low",
  /// "high", and of scores "rows", "agree", "kl" (means per row), with labels "top1_reference", "top1_candidate"}],
  /// "worst_layers": [{"name", "sqnr_db"}] (the first 20)}.
  Json json() const;
};

/// Runs `reference` (reference reading) and `candidate` (given reading) on the same data, opened for the graph
/// `bound`, in step: a value is let go of as soon as it was compared. Inputs, state and outputs are matched by name;
/// Error(Code::verification) for an output that is missing or of another shape. `layers`: also compare float values of
/// equal name inside. Whether an output holds probabilities or logits is told from the first batch of the reference
/// (rows in [0,1] that sum to one).
/// A comparison without layers that is interrupted is taken up again by one with the same `unfinished.key`; outputs of
/// the reference are taken from the cache, or kept there.
struct Unfinished {
  Kept* kept = nullptr;  // null: it begins anew
  Digest key{};          // of everything that is compared
  OutputsKept reference{};
};
Comparison compare(const Graph& reference, const Graph& candidate, Reading reading, const Dataset& data,
                   const Graph& bound, Threads& threads, bool layers,
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress = {},
                   const Unfinished& unfinished = {});

}  // namespace qtool

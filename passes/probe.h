// SPDX-License-Identifier: Apache-2.0
// Probe: does a graph still compute what another one did? The reference reading of both is run on one batch: the
// first of the calibration data, or a made-up one where there are none. Used by the pipeline to hold `equivalent`
// passes to their word.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "calib/observe.h"
#include "formats/base/rng.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Random feeds for a graph without data: one number per symbolic extent, `extent` for all but the first axis (1);
/// normal floats, integers in [0, integers), booleans. Empty optional: an input of unknown type or rank, or strings.
std::optional<Feeds> synthetic_feeds(const Graph&, std::int64_t extent, std::int64_t integers, const Rng&);

class Probe {
 public:
  /// All must outlive the probe.
  Probe(Calibration& calibration, Threads& threads, const Rng& rng)
      : calibration_(calibration), threads_(threads), rng_(rng) {}

  /// What differs at the outputs, as one sentence; empty when they agree: floats within `tolerance()` of the range of
  /// the output, integers and booleans in all but one element of a thousand (near ties of ArgMax and TopK may fall
  /// otherwise). A graph that amplifies rounding is judged by what it does to its own weights moved by one unit in
  /// the last place. Error from the executor when `after` cannot run though `before` does.
  std::string difference(const Graph& before, const Graph& after);

  /// Error(Code::calibration) when `before` does not run on the calibration data: the data's fault, not that of a pass.
  void require_runs(const Graph& before);

  /// Why nothing can be probed (the graph does not run on made-up data); empty when it can. Fixed for the life of the
  /// probe by the first graph.
  const std::string& unable(const Graph& graph);

 private:
  using Outputs = std::vector<Tensor>;
  Outputs run(const Graph&);
  /// run(), unless the graph is the last one that was run.
  const Outputs& outputs_of(const Graph&);
  void prepare(const Graph&);

  Calibration& calibration_;
  Threads& threads_;
  const Rng& rng_;
  bool prepared_ = false;
  std::string unable_;
  Feeds feeds_;
  std::optional<Graph> last_;  // what a step leaves is what the next one starts from
  Outputs last_outputs_;
};

/// Whether nodes of `before` became constants in `after`, with the very bytes that they make, and nothing else changed:
/// then the outputs are the same, whatever the inputs.
bool only_folded(const Graph& before, const Graph& after, Threads& threads);

/// Share of an output's range by which an equivalent pass may move it: 1e-4 for float32; where the graph computes in
/// f16 or bf16, four of its units in the last place.
double equivalence_tolerance(const Graph&);

/// Largest distance of two tensors as a share of the range of `a` (of its largest magnitude when constant). Infinite
/// when shapes or types differ or one is not finite where the other is. Integers and booleans: 0 when at most one
/// element in a thousand differs, else infinite.
double relative_distance(const Tensor& a, const Tensor& b);

}  // namespace qtool

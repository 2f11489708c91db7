// SPDX-License-Identifier: Apache-2.0
// Memo: what a solver came to for weights with the same inputs, kept for later runs under everything that it depends
// on: the inputs (their Merkle hash, so that whatever happened upstream counts), the weights, the decisions, the knobs
// and the data. An interrupted run goes on behind the last layer that was solved; another recipe that agrees up to some
// layer takes its codes up to there. Hessians are kept apart, in caches alone (half of n^2 numbers each, up to 256
// MiB): whatever becomes of the weights, they are those of the inputs.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "passes/pass.h"
#include "passes/solve/walk.h"

namespace qtool::solve {

class Memo {
 public:
  /// `batches`: that are looked at. Keeps references.
  Memo(const Graph&, PassContext&, std::string_view pass, const WalkOptions&, std::int64_t batches);
  bool on() const { return kept_ != nullptr; }

  /// Before a group is solved: fills in its decisions, and tells what was told when they were found. False: nothing is
  /// kept. `inputs`: merkle() of the graph as it is now.
  bool restore(const std::vector<Digest>& inputs, Together&);
  /// After it was solved, where restore() gave it a key; `facts`: how many the journal had before.
  void keep(const Together&, std::size_t facts);

  /// The sums over the rows that a layer sees, where they are known. `reading`: that `inputs` are of.
  bool restore_sums(const std::vector<Digest>& inputs, Reading reading, const Layer&, std::vector<Hessian>&);
  void keep_sums(const std::vector<Digest>& inputs, Reading reading, const Layer&, const std::vector<Hessian>&);

 private:
  bool keeps_sums(const Layer&) const;
  Json about(const Together&) const;
  Digest key_of(const std::vector<Digest>& inputs, const Together&) const;
  /// What sets the inputs of a layer apart: decisions on them too, where `decided`.
  void tell_inputs(Hasher&, const std::vector<Digest>& inputs, const Layer&, const WeightPlace&, bool decided) const;
  std::pair<Digest, Json> sums_key(const std::vector<Digest>& inputs, Reading reading, const Layer&) const;

  const Graph& graph_;
  PassContext& ctx_;
  std::string_view pass_;
  const WalkOptions& options_;
  std::int64_t batches_;
  Kept* kept_;
};

}  // namespace qtool::solve

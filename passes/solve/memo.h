// SPDX-License-Identifier: Apache-2.0
// Memo: what a solver came to for weights with the same inputs, kept for later runs under everything that it depends
// on: the inputs (their Merkle hash, so that whatever happened upstream counts), the weights, the decisions, the knobs
// and the data. An interrupted run goes on behind the last layer that was solved; another recipe that agrees up to some
// layer takes its codes up to there.
#pragma once

#include <cstdint>
#include <string>
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

 private:
  Json about(const Together&) const;
  Digest key_of(const std::vector<Digest>& inputs, const Together&) const;

  const Graph& graph_;
  PassContext& ctx_;
  std::string_view pass_;
  const WalkOptions& options_;
  std::int64_t batches_;
  Kept* kept_;
};

}  // namespace qtool::solve

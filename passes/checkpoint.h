// SPDX-License-Identifier: Apache-2.0
// Checkpoints: the graph as each step of a recipe leaves it, kept in the working folder of a run under a key that
// chains everything that led there: the job (model, data, recipe, arithmetic, build) and every step so far. An
// interrupted run goes on behind the last step whose checkpoint was written.
#pragma once

#include <cstddef>
#include <vector>

#include "formats/base/journal.h"
#include "formats/base/kept.h"
#include "formats/ir/snapshot.h"
#include "passes/pipeline.h"

namespace qtool {

class Checkpoints {
 public:
  /// Null `kept`, or one without a working folder: nothing is stored or found. `base`: the graph that the steps begin
  /// with. The rest must outlive this.
  Checkpoints(Kept* kept, const Digest& job, const Graph& base, const std::vector<BoundStep>& steps, Journal& journal);

  /// How many steps were done by an earlier run. Then `graph` is what they left, and the journal has their facts.
  std::size_t resume(Graph& graph);
  /// The first `done` steps left this graph.
  void store(std::size_t done, const Graph& graph);

 private:
  bool load(std::size_t done, Graph& graph);

  Kept* kept_;
  std::shared_ptr<const Snapshots> snapshots_;  // null: nothing is kept
  std::vector<Digest> keys_;                    // after so many steps
  Journal& journal_;
  std::size_t first_fact_;
};

}  // namespace qtool

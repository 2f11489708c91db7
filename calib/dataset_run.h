// SPDX-License-Identifier: Apache-2.0
// DatasetRun: a model run batch by batch over a data set.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "calib/data.h"
#include "calib/executor.h"
#include "calib/side_by_side.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Carries state from batch to batch where the data set says so. The data may be bound to another graph than the
/// executor's: then inputs and state are matched by name.
class DatasetRun {
 public:
  /// Keeps references to `graph`, `executor` and `data`. `bound`: the graph that `data` was opened for.
  DatasetRun(const Graph& graph, const Executor& executor, const Dataset& data, const Graph& bound,
             std::span<const ValueId> wanted);
  /// Whether batches may run in any order and side by side; else each is begun when the one before has ended.
  bool independent() const { return state_.empty(); }
  /// Whether batch i can be begun without the one before it.
  bool can_begin(std::int64_t i) const { return independent() || data_.restarts(i); }
  /// One batch, run as far as its values were asked for.
  class Batch {
   public:
    /// The next of the wanted values in the order of computation; none at the end.
    std::optional<std::pair<ValueId, Tensor>> next();

   private:
    friend class DatasetRun;
    Batch(DatasetRun& run, const Feeds& feeds) : run_(run), walk_(run.executor_, feeds, run.computed_) {}
    DatasetRun& run_;
    Executor::Walk walk_;
  };
  /// Thread-safe where batches are independent.
  Batch begin(std::int64_t i);
  /// About what the values of one batch take together, by what is known of their types.
  double bytes() const;

 private:
  Feeds feeds(std::int64_t i) const;

  const Graph& graph_;
  const Executor& executor_;
  const Dataset& data_;
  std::map<ValueId, ValueId> inputs_;  // of the bound graph -> of this one
  std::map<ValueId, ValueId> state_;   // output -> input, of this one
  std::vector<ValueId> wanted_;        // ascending
  std::vector<ValueId> computed_;      // these and the state
  Feeds carried_;
};

/// Batches that hold about so many samples; 0 where that is all of them, or `samples` is 0.
std::int64_t batches_for(const Dataset&, std::int64_t samples);

/// Calls work(batch, turn) for batches [0, count), which take `bytes` each: side by side where they are independent
/// (calib/side_by_side.h), else one after the other.
void for_each_batch(Threads&, bool independent, std::int64_t count, double bytes,
                    const std::function<void(std::int64_t batch, Turn&)>& work);

/// Where a run over batches may be taken up again.
struct Rests {
  std::int64_t first = 0;  // batches before this one were visited by an earlier run
  /// Called about every two seconds between batches, when none is in progress: all of the first `done` were visited,
  /// and a later run may begin there. Null: nobody asks, and batches run without rest.
  std::function<void(std::int64_t done)> at_rest;
};

/// Runs `executor` over the batches: at most `batches` of them, 0: all. `wanted` values go to visit with the batch
/// number; those of one value in the order of the batches, those of different values from several threads at once.
/// `progress`, when there is one, is told how many batches have ended, and of how many.
void run_dataset(const Graph&, const Executor&, const Dataset&, Threads&, std::span<const ValueId> wanted,
                 const std::function<void(std::int64_t batch, ValueId, const Tensor&)>& visit, std::int64_t batches = 0,
                 const std::function<void(std::int64_t done, std::int64_t total)>& progress = {},
                 const Rests& rests = {});

/// Calls work(batch, turn) as for_each_batch() does, for batches [rests.first, count), with rests.
void for_each_batch(Threads&, const DatasetRun&, std::int64_t count, double bytes, const Rests& rests,
                    const std::function<void(std::int64_t batch, Turn&)>& work);

}  // namespace qtool

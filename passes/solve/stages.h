// SPDX-License-Identifier: Apache-2.0
// Stages: a model run once over the data while its layers are being changed (gptq.md 3.4). Layers that are held back
// are stops: the run goes as far as it can without them; when they are released, in whatever form they have by then, it
// goes on. So every layer sees what the changed layers before it put out, and every operator runs once per batch.
//
// Between stops the values that somebody still needs are kept, of all batches; where they are large, less: those from
// which the others are made again (passes/solve/keep.h). Nothing runs more than twice.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "calib/data.h"
#include "calib/executor.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool::solve {

class Stages {
 public:
  /// `held`: nodes of the graph. At most `batches` batches, 0: all. Requires: batches do not depend on one another.
  Stages(const Graph& graph, Reading, const Dataset& data, std::int64_t batches, std::set<NodeId> held, Threads&);
  std::int64_t batches() const { return static_cast<std::int64_t>(live_.size()); }
  /// Held nodes whose inputs are there, in the order of the graph. Empty at the end.
  const std::vector<NodeId>& ready() const { return ready_; }
  /// An input of a ready node: kept, or made again.
  Tensor value(std::int64_t batch, ValueId v) const;
  /// Lets the ready nodes run, as `graph` has them now (its nodes and values are those of the first one; constants may
  /// have come), and goes on to the next stop.
  void advance(const Graph& graph);

 private:
  /// A part of the model that can run by itself.
  struct Part {
    Part(const Graph&, const std::vector<NodeId>& nodes, Reading, Threads&);
    Graph graph;
    Executor executor;
  };
  bool known(ValueId v) const { return known_[index(v)] != 0; }
  void find_ready(const Graph&);
  void run(const Graph&, const std::vector<NodeId>& running, std::set<ValueId> needed);
  std::set<ValueId> kept_of(const Graph&, const std::vector<NodeId>& running, const Feeds& made,
                            const std::set<ValueId>& needed) const;

  Reading reading_;
  Threads& threads_;
  std::set<NodeId> held_;
  std::vector<NodeId> waiting_;      // in the order of the graph: not run yet
  std::vector<std::uint8_t> known_;  // by value
  std::vector<Feeds> live_;          // by batch
  std::vector<NodeId> replayed_;     // what makes them again
  std::unique_ptr<const Part> again_;
  std::vector<NodeId> ready_;
};

}  // namespace qtool::solve

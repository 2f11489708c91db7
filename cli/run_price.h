// SPDX-License-Identifier: Apache-2.0
// The price of one run of a model by the executor, from types alone.
#pragma once

#include <cstdint>

#include "calib/executor.h"
#include "cli/rates.h"
#include "formats/ir/graph.h"

namespace qtool {

struct RunPrice {
  double ns = 0;            // on one thread
  std::uint64_t alive = 0;  // most bytes of values that lie in memory at one time
  std::uint64_t kept = 0;   // bytes that operators keep of constants from run to run
  double elements = 0;      // of the results of all nodes
};

/// `graph`: with the extents of the run (those that stay unknown count as 1).
RunPrice price_run(const Graph& graph, Reading reading, const Rates& rates);

/// Elements of a value of such a graph.
double elements_of(const Graph& graph, ValueId v);

}  // namespace qtool

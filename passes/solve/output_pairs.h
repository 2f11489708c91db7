// SPDX-License-Identifier: Apache-2.0
// What a product puts out in two readings, side by side: as quantized, on the inputs that the quantized model gives it,
// and in float, on those of the float model.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "passes/product.h"
#include "passes/solve/stages.h"

namespace qtool::solve {

/// Sums per output channel over positions and samples: of q as quantized, of f in float, and of their products. Both
/// are without the product's own bias.
struct PairSums {
  std::int64_t count = 0;  // of each channel; 0: nothing was seen, or outputs have another shape than their product
  std::vector<double> q, f, qq, qf, ff;
};

/// Runs the product of `graph` in the quantized reading and that of `floats` in the reference reading. Both stages hold
/// it back, and its inputs are there. Element by element in the order of the batches: the same for any number of
/// threads.
PairSums output_pairs(const Graph& graph, const Stages& quantized, const Graph& floats, const Stages& reference,
                      const Product&, Threads&);

}  // namespace qtool::solve

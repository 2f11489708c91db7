// SPDX-License-Identifier: Apache-2.0
// A hash per value of everything it depends on: constants' bytes, operators, attributes, bodies, and (for the
// quantized reading) quant specs. Names of nodes and values do not enter, graph input names do.
#pragma once

#include <vector>

#include "formats/base/hash.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Indexed by ValueId. `quantized`: include Use::quant on the path.
std::vector<Digest> merkle(const Graph&, bool quantized);
/// Of a decision by itself.
Digest fingerprint(const QuantSpec&);
/// One hash of the whole graph, names of inputs and outputs included.
Digest fingerprint(const Graph&, bool quantized);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Structural truths of a graph, checked after reading and after every pass.
#pragma once

#include "formats/ir/graph.h"

namespace qtool {

/// Throws Error(Code::input) with one sentence naming the node or value: value names unique within a graph and none
/// hiding a captured one (sibling bodies may repeat names, as exporters do), node outputs produced once, no constant
/// produced by a node, no use of a value that nothing provides, acyclic, constants' types and shapes agree with their
/// declared types, captures match bodies, local functions unique and not recursive, quant specs well-formed (format
/// present, scale shapes match, scales finite and positive).
void verify(const Graph&);

}  // namespace qtool

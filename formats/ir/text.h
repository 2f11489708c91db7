// SPDX-License-Identifier: Apache-2.0
// Graphs as text: parse ONNX text syntax (the parser of libonnx), print a graph in the same syntax with quant
// annotations as comments, print the difference of two graphs. For tests, `inspect` and review.
#pragma once

#include <string>
#include <string_view>

#include "formats/ir/graph.h"

namespace qtool {

/// A model in ONNX text syntax (`<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { y =
/// Relu(x) }`). Initializers: `< float[2] w = {1, 2} >` after the outputs. Error(Code::input) with line.
Graph parse_graph(std::string_view text);
std::string print_graph(const Graph&);
/// Lines that differ, prefixed with "-" and "+"; empty when both print alike.
std::string diff_graphs(const Graph& before, const Graph& after);

}  // namespace qtool

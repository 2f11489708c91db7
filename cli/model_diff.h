// SPDX-License-Identifier: Apache-2.0
// The difference of two models, tensor by tensor: what nodes read (cli/node_inputs.h), which nodes there are, and what
// the files say about themselves. Nodes are matched by name (of their first output where they have none), so that a
// float model can be compared with what was made of it, and one form of a quantized model with another.
#pragma once

#include <string>

#include "formats/base/json.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

struct ModelDiff {
  /// One object per input of a node that differs: {"node", "input", "a", "b": {"tensor", "format", "shape", "scales"}
  /// or null, "elements", "codes_differ", "scales_differ", "zero_points_differ", "largest_difference",
  /// "largest_value"}. The counts are null where the two forms cannot be counted against each other.
  Json tensors = Json::array();
  /// {"node", "what": "added", "removed" or "changed", "a", "b": operator, "attributes": names}.
  Json nodes = Json::array();
  /// {"what": "ir_version", "opset ai.onnx", "metadata NAME", "input NAME", ..., "a", "b"}.
  Json header = Json::array();
  /// Nodes that convert between numbers and codes, by operator: {"op", "a", "b"} where the counts differ.
  Json conversions = Json::array();

  bool equal() const;
  Json json() const;
  std::string text() const;
  /// "3 tensors, 1 node, 2 entries of the header".
  std::string summary() const;
};

ModelDiff diff_models(const Graph& a, const Graph& b, Threads&);

}  // namespace qtool

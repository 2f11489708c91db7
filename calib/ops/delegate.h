// SPDX-License-Identifier: Apache-2.0
// Operators that are another operator with something around it run that operator, instead of repeating it.
#pragma once

#include <utility>
#include <vector>

#include "calib/op.h"

namespace qtool {

/// Outputs of `def` on operands and attributes of the caller's choice.
inline std::vector<Tensor> run_op(const OpContext& c, const OpDef& def, const std::vector<Tensor>& inputs, Attrs attrs,
                                  std::int64_t opset, std::size_t outputs = 1) {
  Node node;
  node.op = def.name;
  node.attrs = std::move(attrs);
  node.outputs.assign(outputs, ValueId{0});  // wanted, all of them
  std::vector<Tensor> results(outputs);
  def.forward(OpContext{node, opset, inputs, results, c.threads, c.run_body});
  return results;
}

}  // namespace qtool

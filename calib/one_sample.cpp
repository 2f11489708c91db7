// SPDX-License-Identifier: Apache-2.0
#include "calib/one_sample.h"

#include "calib/op.h"

namespace qtool {

std::optional<Graph> bound_to_one_sample(const Graph& graph, const Dataset* data) {
  Graph bound = graph;
  const Feeds feeds = data && data->batches() > 0 ? data->feeds(0) : Feeds{};
  for (const ValueId v : bound.inputs) {
    Type& type = bound[v].type;
    const auto fed = feeds.find(v);
    for (std::size_t axis = 0; axis < type.shape.size(); ++axis) {
      if (type.shape[axis] > 0) continue;
      const bool measured = fed != feeds.end() && fed->second.shape().size() == type.shape.size();
      if (axis > 0 && !measured) return std::nullopt;
      type.shape[axis] = axis > 0 ? fed->second.shape()[axis] : 1;
    }
  }
  infer_types(bound);
  return bound;
}

}  // namespace qtool

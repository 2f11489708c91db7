// SPDX-License-Identifier: Apache-2.0
#include "formats/file/bodies.h"

namespace qtool {

void edit_bodies(Node& node, const std::function<void(Graph&)>& edit) {
  const auto replace = [&](std::shared_ptr<const Graph>& body) {
    auto copy = std::make_shared<Graph>(*body);
    edit(*copy);
    body = std::move(copy);
  };
  for (Attr& attr : node.attrs.all) {
    if (auto* body = std::get_if<std::shared_ptr<const Graph>>(&attr.value)) replace(*body);
    if (auto* bodies = std::get_if<std::vector<std::shared_ptr<const Graph>>>(&attr.value)) {
      for (auto& body : *bodies) replace(body);
    }
  }
}

void set_model(Graph& graph, const std::shared_ptr<const ModelInfo>& model) {
  graph.model = model;
  for (const NodeId n : graph.nodes()) {
    edit_bodies(graph[n], [&](Graph& body) { set_model(body, model); });
  }
}

}  // namespace qtool

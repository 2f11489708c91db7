// SPDX-License-Identifier: Apache-2.0
// Changing bodies: Graphs among attributes are shared and const, so a change is a copy that takes their place.
#pragma once

#include <functional>
#include <memory>

#include "formats/ir/graph.h"

namespace qtool {

/// Replaces each body of `node` by a copy that `edit` has changed. Extras of the attributes stay.
void edit_bodies(Node& node, const std::function<void(Graph&)>& edit);
/// Gives a graph and all its bodies this model.
void set_model(Graph& graph, const std::shared_ptr<const ModelInfo>& model);

}  // namespace qtool

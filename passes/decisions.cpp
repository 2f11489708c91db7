// SPDX-License-Identifier: Apache-2.0
#include "passes/decisions.h"

#include <algorithm>
#include <set>
#include <vector>

#include "formats/base/hash.h"
#include "formats/ir/quant.h"
#include "passes/changes.h"
#include "recipes/reader/where.h"

namespace qtool {
namespace {

Json pair_of(std::string_view node, int number) { return Json::array().push(node).push(number); }

Json uses_decided(const Graph& before, const Graph& after) {
  Json rows = Json::array();
  const auto compare = [&](const Use* was, const Use& is, std::string_view node, int input) {
    const bool decided = was ? !same_decision(was->quant, is.quant) : is.quant != nullptr;
    if (decided) rows.push(pair_of(node, input));
  };
  for (const NodeId id : after.nodes()) {
    const Node& node = after[id];
    const Node* old = index(id) < before.node_slots() && before.alive(id) ? &before[id] : nullptr;
    const auto compare_all = [&](const std::vector<Use>& now, const std::vector<Use>* was, bool captured) {
      for (std::size_t i = 0; i < now.size(); ++i) {
        const int place = captured ? -1 - static_cast<int>(i) : static_cast<int>(i);
        compare(was && i < was->size() ? &(*was)[i] : nullptr, now[i], label_of(after, id), place);
      }
    };
    compare_all(node.inputs, old ? &old->inputs : nullptr, false);
    compare_all(node.captured, old ? &old->captured : nullptr, true);
  }
  for (std::size_t i = 0; i < after.outputs.size(); ++i) {
    compare(i < before.outputs.size() ? &before.outputs[i] : nullptr, after.outputs[i], "", static_cast<int>(i));
  }
  return rows;
}

Json constants_made(const Graph& before, const Graph& after) {
  Json rows = Json::array();
  for (const ValueId v : after.values()) {
    const Tensor& is = after[v].data;
    if (is.empty() || !is_float(is.dtype())) continue;
    const bool known = index(v) < before.value_slots() && before.alive(v) && !before[v].data.empty();
    if (known && (before[v].data.same_storage(is) || before[v].data.same_bytes(is))) continue;
    Json row = Json::object();
    row.set("name", after[v].name).set("was", known ? Json(hex(before[v].data.digest())) : Json());
    rows.push(std::move(row.set("is", hex(is.digest()))));
  }
  return rows;
}

Json rules_followed(const Graph& graph, std::span<const Rule> rules) {
  Json rows = Json::array();
  std::set<NodeId> known;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    for (const NodeId n : select(graph, rules[i].where)) {
      if (known.insert(n).second) rows.push(pair_of(label_of(graph, n), static_cast<int>(i) + 1));
    }
  }
  return rows;
}

}  // namespace

Json decided_between(const Graph& before, const Graph& after, std::span<const Rule> rules) {
  Json json = Json::object();
  json.set("uses", uses_decided(before, after)).set("constants", constants_made(before, after));
  return json.set("rules", rules_followed(before, rules));
}

}  // namespace qtool

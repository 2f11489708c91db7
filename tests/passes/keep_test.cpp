// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/keep.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>

#include "formats/base/rng.h"

using namespace qtool;
using namespace qtool::solve;

namespace {

struct Chart {
  Graph graph;
  std::map<ValueId, double> bytes;
  ValueId value(double size) {
    const ValueId v = graph.add_value({});
    bytes[v] = size;
    return v;
  }
  ValueId node(std::vector<ValueId> inputs, double size) {
    Node n;
    n.op = "Any";
    for (const ValueId v : inputs) n.inputs.push_back({v, nullptr});
    const ValueId out = value(size);
    n.outputs = {out};
    graph.add_node(std::move(n));
    return out;
  }
};

double size_of(const Chart& c, const std::set<ValueId>& values) {
  double sum = 0;
  for (const ValueId v : values) sum += c.bytes.at(v);
  return sum;
}

/// Whether `needed` follow from `kept`.
bool enough(const Chart& c, const std::set<ValueId>& kept, const std::set<ValueId>& needed) {
  std::set<ValueId> known = kept;
  for (const NodeId n : c.graph.order()) {
    bool all = true;
    for_each_use(c.graph[n], [&](ValueId v) { all = all && known.contains(v); });
    if (all) known.insert(c.graph[n].outputs[0]);
  }
  return std::includes(known.begin(), known.end(), needed.begin(), needed.end());
}

}  // namespace

TEST_CASE("what to keep: the narrow place behind which wide values are made again") {
  Chart c;
  const ValueId x = c.value(100), norm = c.node({x}, 100), up = c.node({norm}, 400), relu = c.node({up}, 400);
  const std::vector<NodeId> nodes = c.graph.order();
  CHECK(least_to_keep(c.graph, nodes, c.bytes, {x}, {x, relu}) == std::set<ValueId>{x});
  CHECK(least_to_keep(c.graph, nodes, c.bytes, {x}, {relu}) == std::set<ValueId>{norm});  // the nearest of equals
  CHECK(between(c.graph, nodes, {norm}, {relu}).size() == 2);
  CHECK(between(c.graph, nodes, {norm, relu}, {relu}).empty());
}

TEST_CASE("what to keep: as little as the best of all choices, on random graphs") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const Rng rng(seed, "keep");
    std::uint64_t drawn = 0;
    const auto draw = [&](std::uint64_t n) { return rng.bits(drawn++) % n; };
    Chart c;
    std::vector<ValueId> values;
    std::set<ValueId> given, needed;
    for (int i = 0; i < 3; ++i) given.insert(values.emplace_back(c.value(1.0 + static_cast<double>(draw(9)))));
    for (int i = 0; i < 8; ++i) {
      std::vector<ValueId> inputs{values[draw(values.size())]};
      if (draw(2) == 0) inputs.push_back(values[draw(values.size())]);
      values.push_back(c.node(inputs, 1.0 + static_cast<double>(draw(9))));
    }
    for (int i = 0; i < 3; ++i) needed.insert(values[draw(values.size())]);
    const std::vector<NodeId> nodes = c.graph.order();
    const std::set<ValueId> kept = least_to_keep(c.graph, nodes, c.bytes, given, needed);
    CHECK(enough(c, kept, needed));
    double best = size_of(c, needed);
    for (unsigned choice = 0; choice < 1U << values.size(); ++choice) {
      std::set<ValueId> some;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if ((choice >> i & 1U) != 0) some.insert(values[i]);
      }
      if (size_of(c, some) < best && enough(c, some, needed)) best = size_of(c, some);
    }
    CHECK(size_of(c, kept) == best);
  }
}

// SPDX-License-Identifier: Apache-2.0
#include "passes/fastest.h"

#include <doctest/doctest.h>

#include <set>

#include "formats/base/rng.h"

namespace qtool {
namespace {

NodeId id(int i) { return static_cast<NodeId>(i); }

NodeLatency node(int i, double in_float, double as_decided) {
  return {id(i), Precision::integer, in_float, as_decided};
}

/// Nanoseconds when the nodes in `floats` stay float, counted as the headers say.
double time_of(const Latency& l, const std::set<NodeId>& floats) {
  double sum = 0;
  for (const NodeLatency& n : l.nodes) sum += floats.contains(n.node) ? n.in_float : n.as_decided;
  for (const BorderLatency& b : l.borders) {
    const bool codes = b.from != NodeId::none && !floats.contains(b.from);
    int as_floats = b.float_readers, as_codes = 0;
    for (const NodeId n : b.into) (floats.contains(n) ? as_floats : as_codes) += 1;
    sum += codes ? as_floats * b.to_floats : as_codes > 0 ? b.to_codes : 0;
  }
  return sum;
}

TEST_CASE("fastest: a slow node stays where two conversions cost more than it loses, and leaves where they do not") {
  Latency l;
  l.nodes = {node(0, 100, 10), node(1, 10, 15), node(2, 100, 10)};
  l.borders = {{id(0), {id(1)}, 0, 3, 3}, {id(1), {id(2)}, 0, 3, 3}};
  CHECK(assign::better_in_float(l).empty());
  l.nodes[1].as_decided = 17;
  CHECK(assign::better_in_float(l) == std::vector<NodeId>{id(1)});
}

TEST_CASE("fastest: an equal choice keeps the decision; nothing to choose from gives nothing") {
  Latency l;
  CHECK(assign::better_in_float(l).empty());
  l.nodes = {node(4, 5, 5)};
  CHECK(assign::better_in_float(l).empty());
}

TEST_CASE("fastest: no choice of up to ten nodes is faster (all are tried)") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Rng rng(seed, "fastest");
    std::uint64_t drawn = 0;
    const auto below = [&](int n) { return static_cast<int>(rng.uniform(drawn++) * n); };
    const int count = 2 + below(9);
    Latency l;
    for (int i = 0; i < count; ++i) l.nodes.push_back(node(i, below(30), below(30)));
    for (int b = 0; b < 2 * count; ++b) {
      BorderLatency border;
      const auto from = below(count + 1);
      if (from < count) border.from = id(from);
      for (int i = from + 1; i < count; ++i) {
        if (below(3) == 0) border.into.push_back(id(i));
      }
      if (border.from == NodeId::none) border.into.push_back(id(count - 1));
      border.float_readers = below(3);
      border.to_codes = below(12);
      border.to_floats = below(12);
      l.borders.push_back(border);
    }
    double best = 1e300;
    for (unsigned mask = 0; mask < 1U << count; ++mask) {
      std::set<NodeId> floats;
      for (int i = 0; i < count; ++i) {
        if ((mask >> i & 1U) != 0) floats.insert(id(i));
      }
      best = std::min(best, time_of(l, floats));
    }
    const auto found = assign::better_in_float(l);
    CHECK(time_of(l, {found.begin(), found.end()}) == doctest::Approx(best));
  }
}

}  // namespace
}  // namespace qtool

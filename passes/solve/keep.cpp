// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/keep.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace qtool::solve {
namespace {

constexpr double endless = std::numeric_limits<double>::infinity();

/// A network of a few dozen vertices: augmenting paths, shortest first (Edmonds, Karp, 1972).
class Network {
 public:
  std::size_t add_vertex() {
    edges_of_.emplace_back();
    return edges_of_.size() - 1;
  }
  void add_edge(std::size_t from, std::size_t to, double room) {
    edges_of_[from].push_back(edges_.size());
    edges_.push_back({to, room});
    edges_of_[to].push_back(edges_.size());
    edges_.push_back({from, 0});
  }
  void saturate(std::size_t from, std::size_t to) {
    for (;;) {
      std::vector<std::size_t> by(edges_of_.size(), none), queue{from};
      for (std::size_t at = 0; at < queue.size() && by[to] == none; ++at) {
        for (const std::size_t e : edges_of_[queue[at]]) {
          const std::size_t next = edges_[e].to;
          if (edges_[e].room <= 0 || by[next] != none || next == from) continue;
          by[next] = e;
          queue.push_back(next);
        }
      }
      if (by[to] == none) return;
      double most = endless;
      for (std::size_t v = to; v != from; v = edges_[by[v] ^ 1].to) most = std::min(most, edges_[by[v]].room);
      for (std::size_t v = to; v != from; v = edges_[by[v] ^ 1].to) {
        edges_[by[v]].room -= most;
        edges_[by[v] ^ 1].room += most;
      }
    }
  }
  /// By vertex: whether something could still flow from there to `to`.
  std::vector<bool> reaching(std::size_t to) const {
    std::vector<bool> found(edges_of_.size());
    std::vector<std::size_t> queue{to};
    found[to] = true;
    for (std::size_t at = 0; at < queue.size(); ++at) {
      for (const std::size_t e : edges_of_[queue[at]]) {
        const std::size_t before = edges_[e].to;
        if (edges_[e ^ 1].room <= 0 || found[before]) continue;
        found[before] = true;
        queue.push_back(before);
      }
    }
    return found;
  }

 private:
  struct Edge {
    std::size_t to;
    double room;
  };
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
  std::vector<Edge> edges_;  // an edge and the way back, in turn
  std::vector<std::vector<std::size_t>> edges_of_;
};

}  // namespace

std::set<ValueId> least_to_keep(const Graph& graph, std::span<const NodeId> nodes,
                                const std::map<ValueId, double>& bytes, const std::set<ValueId>& given,
                                const std::set<ValueId>& needed) {
  Network network;
  const std::size_t from = network.add_vertex(), to = network.add_vertex();
  std::map<ValueId, std::size_t> begin;  // vertex of a value; the next one is its end
  for (const auto& [v, size] : bytes) {
    begin[v] = network.add_vertex();
    network.add_edge(begin[v], network.add_vertex(), size);
  }
  for (const ValueId v : given) network.add_edge(from, begin.at(v), endless);
  for (const ValueId v : needed) network.add_edge(begin.at(v) + 1, to, endless);
  for (const NodeId n : nodes) {
    for (const ValueId v : graph[n].outputs) {
      const auto made = begin.find(v);
      if (v == ValueId::none || made == begin.end()) continue;
      for_each_use(graph[n], [&](ValueId x) {
        if (const auto read = begin.find(x); read != begin.end())
          network.add_edge(read->second + 1, made->second, endless);
      });
    }
  }
  network.saturate(from, to);
  const std::vector<bool> behind = network.reaching(to);
  std::set<ValueId> kept;
  for (const auto& [v, at] : begin) {
    if (!behind[at] && behind[at + 1]) kept.insert(v);
  }
  return kept;
}

std::vector<NodeId> between(const Graph& graph, std::span<const NodeId> nodes, const std::set<ValueId>& kept,
                            const std::set<ValueId>& needed) {
  std::set<ValueId> wanted;
  for (const ValueId v : needed) {
    if (!kept.contains(v)) wanted.insert(v);
  }
  std::vector<NodeId> found;
  for (auto n = nodes.rbegin(); n != nodes.rend(); ++n) {
    const Node& node = graph[*n];
    if (std::none_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) { return wanted.contains(v); })) continue;
    found.push_back(*n);
    for_each_use(node, [&](ValueId v) {
      if (!kept.contains(v)) wanted.insert(v);
    });
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace qtool::solve

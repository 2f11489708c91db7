// SPDX-License-Identifier: Apache-2.0
#include "passes/fastest.h"

#include <algorithm>
#include <limits>
#include <map>
#include <queue>

namespace qtool::assign {
namespace {

/// Maximum flow by Dinic's algorithm; capacities are nanoseconds.
class Network {
 public:
  static constexpr double endless = std::numeric_limits<double>::infinity();

  std::size_t vertex() {
    edges_.emplace_back();
    return edges_.size() - 1;
  }
  void edge(std::size_t from, std::size_t to, double capacity) {
    edges_[from].push_back({to, edges_[to].size(), capacity});
    edges_[to].push_back({from, edges_[from].size() - 1, 0});
  }
  void saturate(std::size_t source, std::size_t sink) {
    while (find_levels(source, sink)) {
      next_.assign(edges_.size(), 0);
      while (push(source, sink)) continue;
    }
  }
  /// After saturate(): whether the sink can still be reached. Vertices from which it cannot form the largest source
  /// side of all minimum cuts.
  std::vector<bool> reaching(std::size_t sink) const {
    std::vector<bool> seen(edges_.size());
    std::queue<std::size_t> todo({sink});
    seen[sink] = true;
    for (; !todo.empty(); todo.pop()) {
      for (const Edge& back : edges_[todo.front()]) {
        if (seen[back.to] || edges_[back.to][back.twin].left <= tiny) continue;
        seen[back.to] = true;
        todo.push(back.to);
      }
    }
    return seen;
  }

 private:
  static constexpr double tiny = 1e-6;  // ns
  struct Edge {
    std::size_t to, twin;
    double left;
  };

  bool find_levels(std::size_t source, std::size_t sink) {
    levels_.assign(edges_.size(), -1);
    levels_[source] = 0;
    std::queue<std::size_t> todo({source});
    for (; !todo.empty(); todo.pop()) {
      for (const Edge& e : edges_[todo.front()]) {
        if (e.left <= tiny || levels_[e.to] >= 0) continue;
        levels_[e.to] = levels_[todo.front()] + 1;
        todo.push(e.to);
      }
    }
    return levels_[sink] >= 0;
  }

  /// Fills one path of the current levels; false when there is none left.
  bool push(std::size_t source, std::size_t sink) {
    std::vector<Edge*> path;
    for (std::size_t at = source; at != sink;) {
      std::size_t& i = next_[at];
      while (i < edges_[at].size() && (edges_[at][i].left <= tiny || levels_[edges_[at][i].to] != levels_[at] + 1)) ++i;
      if (i < edges_[at].size()) {
        path.push_back(&edges_[at][i]);
        at = path.back()->to;
      } else if (path.empty()) {
        return false;
      } else {
        at = edges_[path.back()->to][path.back()->twin].to;
        path.pop_back();
        ++next_[at];
      }
    }
    double flow = endless;
    for (const Edge* e : path) flow = std::min(flow, e->left);
    for (Edge* e : path) {
      e->left -= flow;
      edges_[e->to][e->twin].left += flow;
    }
    return true;
  }

  std::vector<std::vector<Edge>> edges_;
  std::vector<int> levels_;
  std::vector<std::size_t> next_;
};

}  // namespace

std::vector<NodeId> better_in_float(const Latency& latency) {
  // Source side: as decided. Sink side: float.
  Network net;
  const std::size_t source = net.vertex(), floats = net.vertex();
  std::map<NodeId, std::size_t> vertices;
  for (const NodeLatency& n : latency.nodes) {
    const std::size_t v = vertices[n.node] = net.vertex();
    net.edge(source, v, n.in_float);
    net.edge(v, floats, n.as_decided);
  }
  for (const BorderLatency& b : latency.borders) {
    const std::size_t maker = b.from == NodeId::none ? floats : vertices.at(b.from);
    // Made as codes, a conversion for each reader of floats; made as floats, one for all readers of codes.
    const std::size_t as_codes = net.vertex();
    net.edge(as_codes, maker, b.to_codes);
    net.edge(maker, floats, b.float_readers * b.to_floats);
    for (const NodeId reader : b.into) {
      net.edge(maker, vertices.at(reader), b.to_floats);
      net.edge(vertices.at(reader), as_codes, Network::endless);
    }
  }
  net.saturate(source, floats);
  const std::vector<bool> float_side = net.reaching(floats);
  std::vector<NodeId> better;
  for (const auto& [node, vertex] : vertices) {
    if (float_side[vertex]) better.push_back(node);
  }
  return better;
}

}  // namespace qtool::assign

// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/where.h"

#include <algorithm>
#include <set>

#include "formats/base/error.h"
#include "recipes/reader/yaml.h"

namespace qtool {
namespace {

/// Whether the class that starts at pattern[at] ('[') holds c; `at` moves behind ']'. An unclosed '[' is literal.
bool in_class(std::string_view pattern, std::size_t& at, char c) {
  std::size_t i = at + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  const std::size_t first = i, end = pattern.find(']', first + 1);
  if (end == std::string_view::npos) {
    ++at;
    return c == '[';
  }
  bool found = false;
  while (i < end) {
    if (i + 2 < end && pattern[i + 1] == '-') {
      found |= pattern[i] <= c && c <= pattern[i + 2];
      i += 3;
    } else {
      found |= pattern[i++] == c;
    }
  }
  at = end + 1;
  return found != negated;
}

bool any_of(const std::vector<std::string>& patterns, std::string_view text) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return glob_match(p, text); });
}

bool matches_op(const std::vector<std::string>& patterns, const Node& node) {
  return any_of(patterns, node.op) || (!node.domain.empty() && any_of(patterns, node.domain + "." + node.op));
}

std::int64_t largest_constant(const Graph& graph, const Node& node, std::int64_t least_rank) {
  std::int64_t largest = 0;
  for (const Use& use : node.inputs) {
    if (graph.is_constant(use.value) && graph[use.value].data.rank() >= least_rank) {
      largest = std::max(largest, graph[use.value].data.count());
    }
  }
  return largest;
}

/// Nodes that depend on `start` (forward) or that it depends on.
std::vector<bool> reach(const Graph& graph, NodeId start, bool forward) {
  const Links links(graph);
  std::vector<bool> seen(graph.node_slots());
  std::vector<NodeId> open{start};
  const auto visit = [&](NodeId id) {
    if (id == NodeId::none || seen[static_cast<std::size_t>(id)]) return;
    seen[static_cast<std::size_t>(id)] = true;
    open.push_back(id);
  };
  while (!open.empty()) {
    const Node& node = graph[open.back()];
    open.pop_back();
    if (forward) {
      for (const ValueId out : node.outputs) {
        if (out == ValueId::none) continue;
        for (const Links::Consumer& consumer : links.consumers(out)) visit(consumer.node);
      }
    } else {
      for (const auto* uses : {&node.inputs, &node.captured}) {
        for (const Use& use : *uses) {
          if (use.value != ValueId::none) visit(links.producer(use.value));
        }
      }
    }
  }
  seen[static_cast<std::size_t>(start)] = false;
  return seen;
}

NodeId node_labelled(const Graph& graph, const std::string& label, const Place& place) {
  std::vector<std::string> labels;
  for (const NodeId id : graph.nodes()) {
    if (label_of(graph, id) == label) return id;
    labels.emplace_back(label_of(graph, id));
  }
  fail_at(place, "the model has no node \"" + label + "\"" + did_you_mean(label, labels));
}

void keep_region(const Graph& graph, const Where& where, std::vector<NodeId>& found) {
  std::vector<bool> inside(graph.node_slots());
  const bool alone = where.op.empty() && where.name.empty() && where.not_op.empty() && where.not_name.empty() &&
                     where.min_size == 0 && where.max_size == 0;
  for (const std::string& region : where.region) {
    if (region == "first" || region == "last") {
      const std::set<NodeId> candidates(found.begin(), found.end());
      NodeId chosen = NodeId::none;
      for (const NodeId id : graph.order()) {
        if (!candidates.count(id) || (alone && largest_constant(graph, graph[id], 2) == 0)) continue;
        if (chosen == NodeId::none || region == "last") chosen = id;
      }
      if (chosen != NodeId::none) inside[static_cast<std::size_t>(chosen)] = true;
      continue;
    }
    const std::size_t colon = region.find(':');
    const NodeId start = node_labelled(graph, region.substr(colon + 1), where.place);
    const std::vector<bool> reached = reach(graph, start, region.starts_with("after"));
    for (std::size_t i = 0; i < reached.size(); ++i) inside[i] = inside[i] || reached[i];
  }
  std::erase_if(found, [&](NodeId id) { return !inside[static_cast<std::size_t>(id)]; });
}

[[noreturn]] void fail_empty(const Graph& graph, const Where& where) {
  std::set<std::string> ops;
  std::vector<std::string> labels;
  bool op_seen = where.op.empty(), name_seen = where.name.empty();
  for (const NodeId id : graph.nodes()) {
    op_seen = op_seen || matches_op(where.op, graph[id]);
    name_seen = name_seen || any_of(where.name, label_of(graph, id));
    ops.insert(graph[id].op);
    labels.emplace_back(label_of(graph, id));
  }
  if (!op_seen) {
    const std::string& word = where.op.front();
    std::string all;
    for (const std::string& op : ops) all += (all.empty() ? "" : ", ") + op;
    fail_at(where.place,
            "`where` matches nothing: the model has no operator \"" + word + "\"" +
                did_you_mean(word, {ops.begin(), ops.end()}),
            "operators of the model: " + all);
  }
  if (!name_seen) {
    const std::string& word = where.name.front();
    fail_at(where.place,
            "`where` matches nothing: the model has no node named \"" + word + "\"" + did_you_mean(word, labels),
            "`qtool inspect --text` prints all nodes");
  }
  fail_at(where.place, "`where` matches nothing: no node meets all of its conditions");
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view text) {
  // Greedy with one point of return: linear in pattern x text, however many stars there are.
  std::size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
      continue;
    }
    std::size_t next = p;
    bool same = false;
    if (p < pattern.size()) {
      if (pattern[p] == '[') {
        same = in_class(pattern, next, text[t]);
      } else {
        same = pattern[p] == '?' || pattern[p] == text[t];
        ++next;
      }
    }
    if (same) {
      p = next;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<NodeId> select(const Graph& graph, const Where& where) {
  std::vector<NodeId> found;
  for (const NodeId id : graph.nodes()) {
    const Node& node = graph[id];
    const std::string_view label = label_of(graph, id);
    if (!where.op.empty() && !matches_op(where.op, node)) continue;
    if (!where.name.empty() && !any_of(where.name, label)) continue;
    if (matches_op(where.not_op, node) || any_of(where.not_name, label)) continue;
    const std::int64_t size = largest_constant(graph, node, 0);
    if (size < where.min_size || (where.max_size > 0 && size > where.max_size)) continue;
    found.push_back(id);
  }
  if (!where.region.empty()) keep_region(graph, where, found);
  if (found.empty()) fail_empty(graph, where);
  return found;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/stages.h"

#include <algorithm>

#include "calib/dataset_run.h"
#include "formats/base/error.h"

namespace qtool::solve {
namespace {

template <class F>
void for_each_use(const Node& node, F f) {
  for (const auto* uses : {&node.inputs, &node.captured}) {
    for (const Use& use : *uses) {
      if (use.value != ValueId::none) f(use.value);
    }
  }
}

/// These nodes and all that they depend on, in the order of the graph.
std::vector<NodeId> leading_to(const Graph& graph, const std::set<NodeId>& ends) {
  std::vector<NodeId> order = graph.order(), found;
  std::vector<std::uint8_t> needed(graph.value_slots());
  for (auto n = order.rbegin(); n != order.rend(); ++n) {
    const Node& node = graph[*n];
    const bool leads = ends.contains(*n) || std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) {
                         return v != ValueId::none && needed[index(v)] != 0;
                       });
    if (!leads) continue;
    found.push_back(*n);
    for_each_use(node, [&](ValueId v) { needed[index(v)] = 1; });
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace

Stages::Stages(const Graph& graph, Reading reading, const Dataset& data, std::int64_t batches, std::set<NodeId> held,
               Threads& threads)
    : reading_(reading),
      threads_(threads),
      held_(std::move(held)),
      waiting_(leading_to(graph, held_)),
      known_(graph.value_slots()) {
  QTOOL_ENSURE(data.state().empty(), "batches are independent");
  const std::int64_t all = batches > 0 ? std::min(batches, data.batches()) : data.batches();
  for (std::int64_t i = 0; i < all; ++i) live_.push_back(data.feeds(i));
  for (const ValueId v : graph.values()) known_[index(v)] = graph.is_constant(v) ? 1 : 0;
  for (const ValueId v : graph.inputs) known_[index(v)] = 1;
  find_ready(graph);
  if (ready_.empty()) advance(graph);
}

void Stages::find_ready(const Graph& graph) {
  ready_.clear();
  for (const NodeId n : waiting_) {
    bool there = held_.contains(n);
    for_each_use(graph[n], [&](ValueId v) { there = there && known(v); });
    if (there) ready_.push_back(n);
  }
}

void Stages::advance(const Graph& graph) {
  for (const NodeId n : ready_) held_.erase(n);
  for (std::size_t v = known_.size(); v < graph.value_slots(); ++v) {
    const auto id = static_cast<ValueId>(v);
    known_.push_back(graph.alive(id) && graph.is_constant(id) ? 1 : 0);
  }
  // What can run now.
  std::vector<std::uint8_t> now = known_;
  std::set<NodeId> running;
  std::vector<NodeId> left;
  for (const NodeId n : waiting_) {
    bool there = !held_.contains(n);
    for_each_use(graph[n], [&](ValueId v) { there = there && now[index(v)] != 0; });
    if (!there) {
      left.push_back(n);
      continue;
    }
    running.insert(n);
    for (const ValueId v : graph[n].outputs) {
      if (v != ValueId::none) now[index(v)] = 1;
    }
  }
  std::set<ValueId> needed;  // by what runs later, as far as a held node comes of it
  if (!held_.empty()) {
    for (const NodeId n : left) for_each_use(graph[n], [&](ValueId v) { needed.insert(v); });
  }
  std::vector<ValueId> wanted;
  Graph part = graph;
  for (const NodeId n : part.nodes()) {
    if (!running.contains(n)) part.erase(n);
  }
  for (const NodeId n : running) {
    for (const ValueId v : graph[n].outputs) {
      if (v != ValueId::none && needed.contains(v)) wanted.push_back(v);
    }
  }
  part.outputs.clear();
  if (!wanted.empty()) {
    const Executor executor(part, reading_, threads_);
    double bytes = 0;
    for (const auto& [v, t] : live_.at(0)) bytes += static_cast<double>(t.size_bytes());
    for_each_batch(threads_, true, batches(), 4 * bytes, [&](std::int64_t batch, Turn&) {
      Feeds& live = live_[static_cast<std::size_t>(batch)];
      std::vector<Tensor> made = executor.run(live, wanted);
      for (std::size_t i = 0; i < wanted.size(); ++i) live[wanted[i]] = std::move(made[i]);
      std::erase_if(live, [&](const auto& entry) { return !needed.contains(entry.first); });
    });
  }
  if (held_.empty()) live_.clear();
  known_ = std::move(now);
  waiting_ = std::move(left);
  find_ready(graph);
}

}  // namespace qtool::solve

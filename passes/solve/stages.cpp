// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/stages.h"

#include <algorithm>
#include <utility>

#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "passes/solve/keep.h"

namespace qtool::solve {
namespace {

/// Bytes of all batches below which nothing is made again: memory that any machine has.
constexpr double plenty = 256.0 * (1 << 20);

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
  std::vector<NodeId> left, running;
  for (const NodeId n : waiting_) {
    bool there = !held_.contains(n);
    for_each_use(graph[n], [&](ValueId v) { there = there && now[index(v)] != 0; });
    (there ? running : left).push_back(n);
    if (!there) continue;
    for (const ValueId v : graph[n].outputs) {
      if (v != ValueId::none) now[index(v)] = 1;
    }
  }
  std::set<ValueId> needed;  // by what runs later, as far as a held node comes of it
  if (!held_.empty()) {
    for (const NodeId n : left) {
      for_each_use(graph[n], [&](ValueId v) {
        if (now[index(v)] != 0 && !graph.is_constant(v)) needed.insert(v);
      });
    }
  }
  run(graph, running, std::move(needed));
  if (held_.empty()) live_.clear();
  known_ = std::move(now);
  waiting_ = std::move(left);
  find_ready(graph);
}

Stages::Part::Part(const Graph& whole, const std::vector<NodeId>& nodes, Reading reading, Threads& threads)
    : graph([&] {
        Graph part = whole;
        const std::set<NodeId> running(nodes.begin(), nodes.end());
        for (const NodeId n : part.nodes()) {
          if (!running.contains(n)) part.erase(n);
        }
        part.outputs.clear();
        return part;
      }()),
      executor(graph, reading, threads) {}

void Stages::run(const Graph& graph, const std::vector<NodeId>& running, std::set<ValueId> needed) {
  std::vector<NodeId> nodes = replayed_;
  nodes.insert(nodes.end(), running.begin(), running.end());
  again_.reset();
  const Part part(graph, nodes, reading_, threads_);
  // The first batch tells how large values are.
  Feeds made = live_.at(0);
  std::vector<ValueId> wanted;
  for (const NodeId n : nodes) {
    std::copy_if(part.graph[n].outputs.begin(), part.graph[n].outputs.end(), std::back_inserter(wanted),
                 [](ValueId v) { return v != ValueId::none; });
  }
  part.executor.run(live_[0], wanted, [&](ValueId v, const Tensor& x) { made[v] = x; });
  std::erase_if(needed, [&](ValueId v) { return !made.contains(v); });
  const std::set<ValueId> kept = kept_of(graph, running, made, needed);
  std::erase_if(made, [&](const auto& entry) { return !kept.contains(entry.first); });
  double bytes = 0;
  for (const auto& [v, t] : made) bytes += static_cast<double>(t.size_bytes());
  wanted.assign(kept.begin(), kept.end());
  live_[0] = std::move(made);
  for_each_batch(threads_, true, batches() - 1, 4 * bytes, [&](std::int64_t batch, Turn&) {
    Feeds& live = live_[static_cast<std::size_t>(batch) + 1];
    std::vector<Tensor> values = part.executor.run(live, wanted);
    live.clear();
    for (std::size_t i = 0; i < wanted.size(); ++i) live[wanted[i]] = std::move(values[i]);
  });
  replayed_ = between(graph, running, kept, needed);
  if (!replayed_.empty()) again_ = std::make_unique<const Part>(graph, replayed_, reading_, threads_);
}

std::set<ValueId> Stages::kept_of(const Graph& graph, const std::vector<NodeId>& running, const Feeds& made,
                                  const std::set<ValueId>& needed) const {
  std::map<ValueId, double> bytes;
  double all = 0;
  for (const auto& [v, t] : made) bytes[v] = static_cast<double>(t.size_bytes());
  for (const ValueId v : needed) all += bytes.at(v);
  if (all * static_cast<double>(batches()) <= plenty) return needed;
  // From what was there at the last stop, no further back.
  std::set<ValueId> given;
  for (const NodeId n : running) {
    for_each_use(graph[n], [&](ValueId v) {
      if (known(v) && bytes.contains(v)) given.insert(v);
    });
  }
  for (const ValueId v : needed) {
    if (known(v)) given.insert(v);
  }
  std::set<ValueId> kept = least_to_keep(graph, running, bytes, given, needed);
  double least = 0;
  for (const ValueId v : kept) least += bytes.at(v);
  return 2 * least <= all ? kept : needed;
}

Tensor Stages::value(std::int64_t batch, ValueId v) const {
  const Feeds& live = live_[static_cast<std::size_t>(batch)];
  const auto kept = live.find(v);
  return kept != live.end() ? kept->second : again_->executor.run(live, std::vector{v})[0];
}

}  // namespace qtool::solve

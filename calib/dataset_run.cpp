// SPDX-License-Identifier: Apache-2.0
#include "calib/dataset_run.h"

#include <algorithm>
#include <chrono>

#include "calib/op.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

bool is_open(std::int64_t extent) { return extent < 0; }

}  // namespace

DatasetRun::DatasetRun(const Graph& graph, const Executor& executor, const Dataset& data, const Graph& bound,
                       std::span<const ValueId> wanted)
    : graph_(graph), executor_(executor), data_(data), wanted_(wanted.begin(), wanted.end()) {
  const auto same = [&](ValueId id) {
    if (&graph == &bound) return id;
    const auto found = graph.find_value(bound[id].name);
    if (!found) {
      throw Error(Code::input, "one model has the value \"" + bound[id].name + "\", the other has not",
                  "models that are compared have inputs of the same names");
    }
    return *found;
  };
  for (const ValueId id : bound.inputs) {
    if (!bound.is_constant(id)) inputs_[id] = same(id);
  }
  std::sort(wanted_.begin(), wanted_.end());
  computed_ = wanted_;
  for (const auto& [output, input] : data.state()) {
    state_[same(output)] = same(input);
    computed_.push_back(same(output));
  }
}

Feeds DatasetRun::feeds(std::int64_t i) const {
  Feeds feeds;
  for (const auto& [id, value] : data_.feeds(i)) feeds[inputs_.at(id)] = value;
  return feeds;
}

double DatasetRun::bytes() const {
  Graph bound = graph_;
  for (const auto& [id, value] : feeds(0)) bound[id].type.shape = value.shape();
  infer_types(bound);
  double sum = 0, largest = 0, unknown = 0;
  for (const ValueId v : bound.values()) {
    const Type& type = bound[v].type;
    if (bound.is_constant(v)) continue;
    if (!type.known_dtype || !type.known_rank || std::any_of(type.shape.begin(), type.shape.end(), is_open)) {
      ++unknown;
      continue;
    }
    const auto bytes = static_cast<double>(byte_size(type.dtype, element_count(type.shape)));
    sum += bytes;
    largest = std::max(largest, bytes);
  }
  return sum + unknown * largest;
}

DatasetRun::Batch DatasetRun::begin(std::int64_t i) {
  Feeds feeds = this->feeds(i);
  if (!independent()) {
    if (!data_.restarts(i)) {
      for (const auto& [input, value] : carried_) feeds[input] = value;
    }
    carried_.clear();
  }
  return Batch(*this, feeds);
}

std::optional<std::pair<ValueId, Tensor>> DatasetRun::Batch::next() {
  while (auto next = walk_.next()) {
    const auto state = run_.state_.find(next->first);
    if (state != run_.state_.end()) run_.carried_[state->second] = next->second;
    if (std::binary_search(run_.wanted_.begin(), run_.wanted_.end(), next->first)) return next;
  }
  return std::nullopt;
}

std::int64_t batches_for(const Dataset& data, std::int64_t samples) {
  const std::int64_t all = data.samples();
  return samples == 0 || samples >= all ? 0 : (samples * data.batches() + all - 1) / all;
}

void for_each_batch(Threads& threads, bool independent, std::int64_t count, double bytes,
                    const std::function<void(std::int64_t batch, Turn&)>& work) {
  if (independent) return side_by_side(threads, count, bytes, work);
  for (std::int64_t batch = 0; batch < count; ++batch) {
    side_by_side(threads, 1, bytes, [&](std::int64_t, Turn& turn) { work(batch, turn); });
  }
}

void for_each_batch(Threads& threads, const DatasetRun& run, std::int64_t count, double bytes, const Rests& rests,
                    const std::function<void(std::int64_t batch, Turn&)>& work) {
  constexpr double between_rests = 2;  // seconds: the threads that are done first wait for the last one
  constexpr double most_growth = 8;
  const std::int64_t round = 2 * std::int64_t{threads.count()};
  std::int64_t at_once = rests.at_rest ? round : count;
  for (std::int64_t begin = rests.first; begin < count;) {
    std::int64_t n = std::min(at_once, count - begin);
    while (begin + n < count && !run.can_begin(begin + n)) ++n;
    const auto start = std::chrono::steady_clock::now();
    for_each_batch(threads, run.independent(), n, bytes, [&](std::int64_t i, Turn& turn) { work(begin + i, turn); });
    begin += n;
    if (!rests.at_rest) return;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double growth = std::clamp(between_rests / std::max(took.count(), 1e-6), 1 / most_growth, most_growth);
    const auto wished = static_cast<std::int64_t>(static_cast<double>(at_once) * growth);
    at_once = std::max<std::int64_t>(wished / round, 1) * round;
    if (begin < count) rests.at_rest(begin);
  }
}

void run_dataset(const Graph& graph, const Executor& executor, const Dataset& data, Threads& threads,
                 std::span<const ValueId> wanted,
                 const std::function<void(std::int64_t batch, ValueId, const Tensor&)>& visit, std::int64_t batches,
                 const std::function<void(std::int64_t done, std::int64_t total)>& progress, const Rests& rests) {
  DatasetRun run(graph, executor, data, graph, wanted);
  const std::int64_t end = batches > 0 ? std::min(batches, data.batches()) : data.batches();
  for_each_batch(threads, run, end, run.bytes(), rests, [&](std::int64_t i, Turn& turn) {
    DatasetRun::Batch batch = run.begin(i);
    while (const auto value = batch.next()) {
      turn.in_order([&] { visit(i, value->first, value->second); });
    }
    if (progress) turn.last([&] { progress(i + 1, end); });
  });
}

}  // namespace qtool

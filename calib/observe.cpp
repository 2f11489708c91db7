// SPDX-License-Identifier: Apache-2.0
#include "calib/observe.h"

#include <algorithm>
#include <cmath>

#include "calib/clip.h"
#include "calib/dataset_run.h"
#include "calib/statistics.h"
#include "formats/base/error.h"
#include "formats/ir/merkle.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

constexpr std::int64_t channel_bins = 256;  // at most, per channel: there are many

void set_range(const Channel& c, const ObserverOptions& o, float& low, float& high) {
  if (c.count == 0) {
    low = high = 0;
    return;
  }
  low = c.extremes.low;
  high = c.extremes.high;
  if (o.method == "minmax") return;
  if (o.method == "moving_average") {
    low = static_cast<float>(c.average_low);
    high = static_cast<float>(c.average_high);
    return;
  }
  const NumberFormat& format = o.format == nullptr ? number::int8 : *o.format;
  const Histogram& h = *c.histogram;
  const Limits limits = o.method == "percentile" ? clip_percentile(h, o.percentile, o.symmetric)
                        : o.method == "entropy"  ? clip_entropy(h, format, o.symmetric)
                                                 : clip_least_error(h, format, o.symmetric, o.method == "mae" ? 1 : 2);
  low = std::max(low, limits.first);
  high = std::min(high, limits.second);
}

}  // namespace

struct Calibration::State {
  std::shared_ptr<const Dataset> data;
  Threads& threads;
  Journal& journal;
  std::map<std::string, std::shared_ptr<const Statistics>> cache;

  /// What is asked of one value.
  struct Ask {
    ValueId value;
    int axis;
    std::int64_t bins;
    std::optional<double> smoothing;
  };
  std::vector<std::shared_ptr<const Statistics>> statistics(Calibration& self, const Graph& graph, Reading reading,
                                                            const std::vector<Ask>& asks);
};

/// The cached, and in one sweep all that are missing.
std::vector<std::shared_ptr<const Statistics>> Calibration::State::statistics(Calibration& self, const Graph& graph,
                                                                              Reading reading,
                                                                              const std::vector<Ask>& asks) {
  const std::vector<Digest> digests = merkle(graph, reading == Reading::quantized);
  std::map<std::string, std::shared_ptr<Statistics>> missing;
  std::map<ValueId, std::vector<Statistics*>> listeners;
  std::vector<ValueId> wanted;
  std::vector<std::string> keys;
  for (const Ask& ask : asks) {
    const std::string key = hex(digests[index(ask.value)]) + (reading == Reading::quantized ? "q" : "r") + "," +
                            std::to_string(ask.axis) + "," + std::to_string(ask.bins) + "," +
                            (ask.smoothing ? std::to_string(*ask.smoothing) : "");
    keys.push_back(key);
    if (cache.count(key) != 0 || missing.count(key) != 0) continue;
    auto fresh = std::make_shared<Statistics>(graph[ask.value].name, ask.axis, ask.bins, ask.smoothing);
    auto& all = listeners[ask.value];
    if (all.empty()) wanted.push_back(ask.value);
    all.push_back(fresh.get());
    missing.emplace(key, std::move(fresh));
  }
  if (!wanted.empty()) {
    self.sweep(graph, reading, wanted, 0, [&](std::int64_t, ValueId v, const Tensor& t) {
      for (Statistics* s : listeners.at(v)) s->add(t, threads);
    });
    for (const ValueId v : wanted) {
      const Statistics& s = *listeners.at(v).front();
      if (s.infinite() > 0) {
        journal.warn(graph[v].name, "holds " + std::to_string(s.infinite()) + " infinities; its range leaves them out");
      } else if (s.count() == 0) {
        journal.warn(graph[v].name, "was never computed on the calibration data; its range is unknown");
      }
    }
    for (auto& [key, s] : missing) cache.emplace(key, std::move(s));
  }
  std::vector<std::shared_ptr<const Statistics>> out;
  for (const std::string& key : keys) out.push_back(cache.at(key));
  return out;
}

Calibration::Calibration(std::shared_ptr<const Dataset> data, Threads& threads, Journal& journal)
    : state_(std::make_unique<State>(State{std::move(data), threads, journal, {}})) {}
Calibration::~Calibration() = default;

bool Calibration::has_data() const { return state_->data != nullptr; }

const Dataset& Calibration::data() const {
  if (!has_data()) {
    throw Error(Code::calibration, "this needs calibration data, and there are none",
                "name a file of typical inputs with --calib or `data: {path: ...}`");
  }
  return *state_->data;
}

std::vector<Range> Calibration::ranges(const Graph& graph, Reading reading, std::span<const Request> requests) {
  std::vector<State::Ask> asks;
  for (const Request& r : requests) {
    const ObserverOptions& o = r.options;
    if (std::find(observer_methods.begin(), observer_methods.end(), o.method) == observer_methods.end()) {
      throw Error(Code::usage, "unknown observer \"" + o.method + "\"");
    }
    const bool average = o.method == "moving_average";
    if (average && o.axis >= 0) throw Error(Code::usage, "moving averages are taken per tensor, not per channel");
    const std::int64_t bins = average || o.method == "minmax" ? 0
                              : o.axis >= 0                   ? std::min(o.bins, channel_bins)
                                                              : o.bins;
    asks.push_back(
        {r.value, o.axis >= 0 ? o.axis : Statistics::whole, bins, average ? std::optional(o.smoothing) : std::nullopt});
  }
  const auto statistics = state_->statistics(*this, graph, reading, asks);
  std::vector<Range> out(requests.size());
  state_->threads.for_each(static_cast<std::int64_t>(out.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Statistics& s = *statistics[index(i)];
      Range& range = out[index(i)];
      const std::size_t n = std::max<std::size_t>(1, s.channels().size());
      range.low.resize(n);
      range.high.resize(n);
      range.count = s.count();
      range.infinite = s.infinite();
      for (std::size_t c = 0; c < s.channels().size(); ++c) {
        set_range(s.channels()[c], requests[index(i)].options, range.low[c], range.high[c]);
      }
    }
  });
  return out;
}

void Calibration::sweep(const Graph& graph, Reading reading, std::span<const ValueId> values, std::int64_t batches,
                        const std::function<void(std::int64_t batch, ValueId, const Tensor&)>& visit) {
  const Dataset& set = data();
  const Executor executor(graph, reading, state_->threads);
  run_dataset(graph, executor, set, state_->threads, values, visit, batches,
              [&](std::int64_t done, std::int64_t total) {
                state_->journal.progress({"calibration", done, total});
              });
}

}  // namespace qtool

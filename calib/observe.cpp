// SPDX-License-Identifier: Apache-2.0
#include "calib/observe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "calib/clip.h"
#include "calib/histogram.h"
#include "formats/base/error.h"
#include "formats/ir/merkle.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

constexpr std::int64_t channel_bins = 256;              // at most, per channel: there are many
constexpr int whole = std::numeric_limits<int>::min();  // axis: per tensor

/// What one channel showed.
struct Channel {
  float low = std::numeric_limits<float>::infinity(), high = -std::numeric_limits<float>::infinity();
  double sum = 0;
  std::int64_t count = 0;
  std::optional<Histogram> histogram;
};

/// What a value showed, per channel of `axis`.
class Statistics {
 public:
  Statistics(std::string name, int axis, std::int64_t bins) : name_(std::move(name)), axis_(axis), bins_(bins) {}

  void add(const Tensor& t) {
    if (!is_float(t.dtype())) {
      throw Error(Code::calibration, "\"" + name_ + "\" is " + std::string(name_of(t.dtype())) +
                                         "; only floating-point values have ranges and means");
    }
    const Tensor f = to_f32(t);
    const auto x = f.read<float>();
    std::size_t n = 1, inner = x.size();
    if (axis_ != whole) {
      const std::int64_t axis = axis_ < 0 ? axis_ + t.rank() : axis_;
      if (axis < 0 || axis >= t.rank())
        fail("has the shape " + to_string(t.shape()) + ", no axis " + std::to_string(axis_));
      n = index(t.shape()[index(axis)]);
      inner = 1;
      for (std::size_t a = index(axis) + 1; a < t.shape().size(); ++a) inner *= index(t.shape()[a]);
    }
    if (channels_.empty()) channels_.resize(n);
    if (channels_.size() != n) {
      fail("has " + std::to_string(n) + " channels in one batch and " + std::to_string(channels_.size()) +
           " in another");
    }
    if (inner == 0) return;
    for (std::size_t at = 0; at < x.size(); at += inner) add(channels_[at / inner % n], x.subspan(at, inner));
  }

  const std::vector<Channel>& channels() const { return channels_; }
  std::int64_t infinite() const { return infinite_; }
  std::int64_t count() const {
    std::int64_t n = 0;
    for (const Channel& c : channels_) n += c.count;
    return n;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(Code::calibration, "\"" + name_ + "\" " + what); }

  void add(Channel& c, std::span<const float> x) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    if (bins_ > 0 && !c.histogram) c.histogram.emplace(bins_);
    float low = c.low, high = c.high;
    double sum = c.sum;  // element by element: the same for every cut into batches
    std::int64_t bad = 0;
    for (const float v : x) {
      const bool finite = std::fabs(v) < inf;
      bad += finite ? 0 : 1;
      low = finite && v < low ? v : low;
      high = finite && v > high ? v : high;
      sum += finite ? static_cast<double>(v) : 0.0;
    }
    if (bad > 0 && std::any_of(x.begin(), x.end(), [](float v) { return std::isnan(v); })) {
      throw Error(Code::calibration, "\"" + name_ + "\" becomes NaN on the calibration data",
                  "check the data with the float model: a wrong preprocessing or type is the usual cause");
    }
    c.low = low;
    c.high = high;
    c.sum = sum;
    c.count += static_cast<std::int64_t>(x.size()) - bad;
    infinite_ += bad;
    if (!c.histogram) return;
    for (const float v : x) {
      if (std::fabs(v) < inf) c.histogram->add(v);
    }
  }

  std::string name_;
  int axis_;
  std::int64_t bins_;  // 0: no histogram
  std::vector<Channel> channels_;
  std::int64_t infinite_ = 0;
};

void set_range(const Channel& c, const ObserverOptions& o, float& low, float& high) {
  if (c.count == 0) {
    low = high = 0;
    return;
  }
  low = c.low;
  high = c.high;
  if (o.method == "minmax") return;
  const NumberFormat& format = o.format == nullptr ? number::int8 : *o.format;
  const Histogram& h = *c.histogram;
  const Limits limits = o.method == "percentile" ? clip_percentile(h, o.percentile, o.symmetric)
                        : o.method == "entropy"  ? clip_entropy(h, format, o.symmetric)
                                                 : clip_mse(h, format, o.symmetric);
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
  };
  std::vector<std::shared_ptr<const Statistics>> statistics(Calibration& self, const Graph& graph, Reading reading,
                                                            const std::vector<Ask>& asks);
};

/// The cached, and in one sweep all that are missing.
std::vector<std::shared_ptr<const Statistics>> Calibration::State::statistics(Calibration& self, const Graph& graph,
                                                                              Reading reading,
                                                                              const std::vector<Ask>& asks) {
  const std::vector<Digest> digests = merkle(graph, reading == Reading::quantized);
  const std::string digest = self.data().digest();
  std::map<std::string, std::shared_ptr<Statistics>> missing;
  std::map<ValueId, std::vector<Statistics*>> listeners;
  std::vector<ValueId> wanted;
  std::vector<std::string> keys;
  for (const Ask& ask : asks) {
    const std::string key = digest + hex(digests[index(ask.value)]) + (reading == Reading::quantized ? "q" : "r") +
                            "," + std::to_string(ask.axis) + "," + std::to_string(ask.bins);
    keys.push_back(key);
    if (cache.count(key) != 0 || missing.count(key) != 0) continue;
    auto fresh = std::make_shared<Statistics>(graph[ask.value].name, ask.axis, ask.bins);
    auto& all = listeners[ask.value];
    if (all.empty()) wanted.push_back(ask.value);
    all.push_back(fresh.get());
    missing.emplace(key, std::move(fresh));
  }
  if (!wanted.empty()) {
    self.sweep(graph, reading, wanted, 0, [&](std::int64_t, ValueId v, const Tensor& t) {
      for (Statistics* s : listeners.at(v)) s->add(t);
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
    if (o.method != "minmax" && o.method != "percentile" && o.method != "entropy" && o.method != "mse") {
      throw Error(Code::usage, "unknown observer \"" + o.method + "\"", "observers: minmax, percentile, entropy, mse");
    }
    const std::int64_t bins = o.method == "minmax" ? 0 : o.axis >= 0 ? std::min(o.bins, channel_bins) : o.bins;
    asks.push_back({r.value, o.axis >= 0 ? o.axis : whole, bins});
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
      range.mean.resize(n);
      range.count = s.count();
      range.infinite = s.infinite();
      for (std::size_t c = 0; c < s.channels().size(); ++c) {
        const Channel& channel = s.channels()[c];
        set_range(channel, requests[index(i)].options, range.low[c], range.high[c]);
        if (channel.count > 0) range.mean[c] = static_cast<float>(channel.sum / static_cast<double>(channel.count));
      }
    }
  });
  return out;
}

std::vector<std::vector<double>> Calibration::means(const Graph& graph, Reading reading,
                                                    std::span<const ValueId> values, int axis) {
  std::vector<State::Ask> asks;
  for (const ValueId v : values) asks.push_back({v, axis, 0});
  std::vector<std::vector<double>> out;
  for (const auto& s : state_->statistics(*this, graph, reading, asks)) {
    std::vector<double>& means = out.emplace_back();
    for (const Channel& c : s->channels()) means.push_back(c.count == 0 ? 0 : c.sum / static_cast<double>(c.count));
  }
  return out;
}

void Calibration::sweep(const Graph& graph, Reading reading, std::span<const ValueId> values, std::int64_t batches,
                        const std::function<void(std::int64_t batch, ValueId, const Tensor&)>& visit) {
  const Dataset& set = data();
  const Executor executor(graph, reading, state_->threads);
  DatasetRun run(graph, executor, set, graph);
  const std::int64_t end = batches > 0 ? std::min(batches, set.batches()) : set.batches();
  while (run.done() < end) {
    run.next(values, [&](ValueId v, const Tensor& t) { visit(run.done(), v, t); });
    state_->journal.progress({"calibration", run.done(), end});
  }
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "calib/observe.h"

#include <algorithm>
#include <cmath>

#include "calib/clip.h"
#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/ir/merkle.h"
#include "formats/ir/quant.h"

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

class Ranges final : public Gathered {
 public:
  explicit Ranges(Statistics empty) : statistics(std::move(empty)) {}
  void add(const Tensor& t, Threads& threads) override { statistics.add(t, threads); }
  void write(ByteWriter& out) const override { statistics.write(out); }
  void read(ByteReader& in) override { statistics.read(in); }
  Statistics statistics;
};

const Statistics& statistics_of(const Gatherer::Collection& c) { return static_cast<const Ranges&>(*c.all).statistics; }

Gatherer::Wish wish_for(const Graph& graph, ValueId value, int axis, std::int64_t bins,
                        std::optional<double> smoothing) {
  std::string what = "range";
  if (axis != Statistics::whole) what += " along axis " + std::to_string(axis);
  if (bins > 0) what += ", histogram of " + std::to_string(bins) + " bins";
  if (smoothing) what += ", average smoothed by " + Json(*smoothing).dump();
  return {value, std::move(what),
          [=, name = graph[value].name] { return std::make_unique<Ranges>(Statistics(name, axis, bins, smoothing)); }};
}

/// A remark that the journal has not got yet: what an earlier run found stands there already.
void warn_once(Journal& journal, const std::string& where, const std::string& text) {
  const auto& facts = journal.facts();
  const bool told = std::any_of(facts.begin(), facts.end(), [&](const Json& f) {
    const Json *kind = f.find("kind"), *place = f.find("where"), *said = f.find("text");
    return kind && *kind == Json("warning") && place && *place == Json(where) && said && *said == Json(text);
  });
  if (!told) journal.warn(where, text);
}

/// Of what was asked for the first time.
void tell_oddities(const Graph& graph, const std::vector<Gatherer::Wish>& wishes,
                   const std::vector<Gatherer::Collection>& collections, Journal& journal) {
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    if (!collections[i].first) continue;
    const Statistics& s = statistics_of(collections[i]);
    const std::string& name = graph[wishes[i].value].name;
    if (s.infinite() > 0) {
      warn_once(journal, name, "holds " + std::to_string(s.infinite()) + " infinities; its range leaves them out");
    } else if (s.count() == 0) {
      warn_once(journal, name, "was never computed on the calibration data; its range is unknown");
    }
  }
}

class Means final : public Gathered {
 public:
  Means(Calibration::MeanRequest request, ChannelSums::Of of) : request_(std::move(request)), sums_(of) {}
  void add(const Tensor& t, Threads& threads) override {
    const Quant& quant = request_.seen_through;
    fits_ = fits_ && sums_.add(quant ? fake_quantize(t, *quant) : t, request_.channels, request_.axis, threads);
  }
  void write(ByteWriter& out) const override {
    out.number(fits_);
    sums_.write(out);
  }
  void read(ByteReader& in) override {
    fits_ = in.flag();
    sums_.read(in);
  }
  std::vector<double> means() const { return fits_ ? sums_.means() : std::vector<double>(); }
  ChannelSums sums() const { return fits_ ? sums_ : ChannelSums(); }

 private:
  Calibration::MeanRequest request_;
  bool fits_ = true;
  ChannelSums sums_;
};

std::vector<Gatherer::Wish> wishes_for(std::span<const Calibration::MeanRequest> requests, ChannelSums::Of of) {
  std::vector<Gatherer::Wish> wishes;
  for (const Calibration::MeanRequest& r : requests) {
    std::string what = of == ChannelSums::Of::squares ? "squares" : "means";
    what += " of " + std::to_string(r.channels) + " channels along axis " + std::to_string(r.axis);
    if (r.seen_through) what += ", as quantized by " + hex(fingerprint(*r.seen_through));
    wishes.push_back({r.value, std::move(what), [r, of] { return std::make_unique<Means>(r, of); }});
  }
  return wishes;
}

}  // namespace

struct Calibration::State {
  std::shared_ptr<const Dataset> data;
  Threads& threads;
  Journal& journal;
  Gatherer gatherer;
};

Calibration::Calibration(std::shared_ptr<const Dataset> data, Threads& threads, Journal& journal, Keeping keeping)
    : state_(std::make_unique<State>(
          State{std::move(data), threads, journal, Gatherer(threads, journal, std::move(keeping))})) {}
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
  std::vector<Gatherer::Wish> wishes;
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
    wishes.push_back(wish_for(graph, r.value, o.axis >= 0 ? o.axis : Statistics::whole, bins,
                              average ? std::optional(o.smoothing) : std::nullopt));
  }
  const auto collections = state_->gatherer.gather(data(), graph, reading, 0, wishes);
  tell_oddities(graph, wishes, collections, state_->journal);
  std::vector<Range> out(requests.size());
  state_->threads.for_each(static_cast<std::int64_t>(out.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Statistics& s = statistics_of(collections[index(i)]);
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

std::vector<std::vector<double>> Calibration::means(const Graph& graph, Reading reading, std::int64_t batches,
                                                    std::span<const MeanRequest> requests) {
  std::vector<std::vector<double>> out;
  const auto wishes = wishes_for(requests, ChannelSums::Of::elements);
  for (const auto& c : state_->gatherer.gather(data(), graph, reading, batches, wishes)) {
    out.push_back(static_cast<const Means&>(*c.all).means());
  }
  return out;
}

std::vector<ChannelSums> Calibration::squares(const Graph& graph, Reading reading, std::int64_t batches,
                                              std::span<const MeanRequest> requests) {
  std::vector<ChannelSums> out;
  const auto wishes = wishes_for(requests, ChannelSums::Of::squares);
  for (const auto& c : state_->gatherer.gather(data(), graph, reading, batches, wishes)) {
    out.push_back(static_cast<const Means&>(*c.all).sums());
  }
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

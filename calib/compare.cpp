// SPDX-License-Identifier: Apache-2.0
#include "calib/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

bool numeric(DType t) { return t != DType::string && t != DType::c64 && t != DType::c128; }

bool is_scores(const Tensor& t) {
  return is_float(t.dtype()) && (t.rank() == 2 || t.rank() == 3) && t.shape().back() >= 2 && t.shape().back() <= 100000;
}

/// Rows in [0, 1] that sum to one, up to what float32 rounds.
bool are_probabilities(std::span<const float> x, std::size_t classes) {
  constexpr double slack = 1e-3;
  for (std::size_t at = 0; at < x.size(); at += classes) {
    double sum = 0;
    for (const float v : x.subspan(at, classes)) {
      if (!(v >= -slack && v <= 1 + slack)) return false;
      sum += v;
    }
    if (std::fabs(sum - 1) > slack) return false;
  }
  return true;
}

/// One row as log-probabilities.
void log_probabilities(std::span<const float> row, bool probabilities, std::vector<double>& out) {
  constexpr double least = 0x1p-24;
  out.resize(row.size());
  double top = -infinite, sum = 0;
  for (const float v : row) top = std::max(top, static_cast<double>(v));
  for (std::size_t i = 0; i < row.size(); ++i) {
    out[i] = probabilities ? std::max<double>(row[i], 0) : std::exp(static_cast<double>(row[i]) - top);
    sum += out[i];
  }
  for (double& p : out) p = std::log(std::max(p / sum, least));
}

std::size_t best_of(std::span<const float> row) {
  return static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

/// Probabilities or logits: decided once per output. `units`: the samples of the batch.
void add_scores(ClassStats& s, std::span<SampleLoss> units, const Tensor& x, const Tensor& y, bool probabilities,
                std::span<const std::int64_t> labels) {
  const Tensor fx = to_f32(x), fy = to_f32(y);
  const auto classes = index(x.shape().back());
  const auto a = fx.read<float>(), b = fy.read<float>();
  std::vector<double> p, q;
  const bool labelled = labels.size() * classes == a.size();
  for (std::size_t row = 0, at = 0; at < a.size(); ++row, at += classes) {
    const auto from = a.subspan(at, classes), to = b.subspan(at, classes);
    SampleLoss& unit = units[at * units.size() / a.size()];
    ++s.samples;
    ++unit.rows;
    // -inf is a score (a masked class); NaN and +inf are not.
    const bool usable = std::none_of(to.begin(), to.end(), [](float v) { return std::isnan(v) || v == INFINITY; });
    const std::size_t best_x = best_of(from), best_y = usable ? best_of(to) : classes;
    s.agree += best_x == best_y ? 1 : 0;
    unit.agree += best_x == best_y ? 1 : 0;
    const bool known = labelled && labels[row] >= 0 && index(labels[row]) < classes;
    if (known) {
      const bool right = best_x == index(labels[row]), still = best_y == index(labels[row]);
      ++s.labelled;
      ++unit.labelled;
      s.reference_right += right ? 1 : 0;
      s.candidate_right += still ? 1 : 0;
      unit.lost += right && !still ? 1 : 0;
      unit.won += still && !right ? 1 : 0;
    }
    if (!usable) {
      s.kl = unit.kl = unit.surprise = infinite;
      continue;
    }
    log_probabilities(from, probabilities, p);
    log_probabilities(to, probabilities, q);
    double kl = 0;
    for (std::size_t i = 0; i < classes; ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
    s.kl += std::max(kl, 0.0);
    unit.kl += std::max(kl, 0.0);
    if (known) unit.surprise += p[index(labels[row])] - q[index(labels[row])];
  }
}

/// A value as the reading hands it out: graph outputs may be quantized uses.
Tensor handed_out(const Tensor& t, const Quant& quant, Reading reading) {
  return reading == Reading::quantized && quant ? fake_quantize(t, *quant) : t;
}

/// What is compared with one value of the reference.
struct Pair {
  struct Output {
    std::size_t place;  // in Comparison::outputs
    Quant quant;
    bool probabilities = false;
  };
  ValueId candidate = ValueId::none;
  std::vector<Output> outputs;
  ErrorStats* layer = nullptr;
};

struct Pairs {
  std::map<ValueId, Pair> of;                             // by value of the reference
  std::deque<std::pair<std::string, ErrorStats>> layers;  // in the order of the reference
};

Pairs pair_up(const Graph& reference, const Graph& candidate, bool layers, Comparison& result) {
  Pairs pairs;
  for (const Use& use : reference.outputs) {
    const std::string& name = reference[use.value].name;
    const auto other = std::find_if(candidate.outputs.begin(), candidate.outputs.end(),
                                    [&](const Use& u) { return candidate[u.value].name == name; });
    if (other == candidate.outputs.end()) {
      throw Error(Code::verification, "the output \"" + name + "\" of the one model is missing in the other");
    }
    Pair& pair = pairs.of[use.value];
    pair.candidate = other->value;
    pair.outputs.push_back({result.outputs.size(), other->quant});
    result.outputs.emplace_back().name = name;
  }
  if (!layers) return pairs;
  const Links links(candidate);
  for (const NodeId n : reference.order()) {
    for (const ValueId v : reference[n].outputs) {
      if (v == ValueId::none) continue;
      const auto other = candidate.find_value(reference[v].name);
      if (!other || links.producer(*other) == NodeId::none) continue;
      Pair& pair = pairs.of[v];
      pair.candidate = *other;
      pair.layer = &pairs.layers.emplace_back(reference[v].name, ErrorStats()).second;
    }
  }
  return pairs;
}

/// A batch of the candidate, run as far as the reference has come.
class Follower {
 public:
  Follower(DatasetRun& run, std::int64_t batch) : batch_(run.begin(batch)) {}
  /// Empty: the value is not computed in this batch.
  Tensor value(ValueId wanted) {
    if (const auto known = waiting_.find(wanted); known != waiting_.end()) {
      Tensor t = std::move(known->second);
      waiting_.erase(known);
      return t;
    }
    while (auto next = batch_.next()) {
      if (next->first == wanted) return std::move(next->second);
      waiting_.insert(std::move(*next));
    }
    return {};
  }
  /// Runs to the end of the batch: what the next one starts from may lie behind the last value.
  void finish() {
    while (batch_.next()) {
    }
  }

 private:
  DatasetRun::Batch batch_;
  std::map<ValueId, Tensor> waiting_;  // computed before the reference came to them
};

/// The losses of the batch's `samples`, or of the batch as one where its rows are not theirs.
std::span<SampleLoss> add_losses(OutputReport& report, const Tensor& x, const Tensor& y, std::int64_t samples) {
  const bool apart = samples > 0 && x.rank() > 0 && x.shape()[0] > 0 && x.shape()[0] % samples == 0;
  const std::size_t units = apart ? index(samples) : 1, before = report.samples.size();
  report.samples.resize(before + units);
  const std::span<SampleLoss> losses = std::span(report.samples).subspan(before);
  const Tensor fx = to_f32(x), fy = to_f32(y);
  const std::size_t each = fx.read<float>().size() / units;
  for (std::size_t u = 0; u < units; ++u) {
    ErrorStats own;
    own.add(fx.read<float>().subspan(u * each, each), fy.read<float>().subspan(u * each, each));
    losses[u].signal = own.signal();
    losses[u].noise = own.not_finite > 0 ? infinite : own.noise();
  }
  return losses;
}

void compare_value(Pair& pair, Comparison& result, const Tensor& x, const Tensor& y, Reading reading, bool first_batch,
                   std::int64_t samples, std::span<const std::int64_t> labels) {
  // Inner values of one name may have become something else; only like ones are compared.
  if (pair.layer && is_float(x.dtype()) && is_float(y.dtype()) && x.shape() == y.shape()) pair.layer->add(x, y);
  for (Pair::Output& o : pair.outputs) {
    if (!numeric(y.dtype())) continue;
    OutputReport& report = result.outputs[o.place];
    const Tensor out = handed_out(y, o.quant, reading);
    try {
      report.error.add(x, out);
    } catch (const Error& e) {
      throw Error(e.code(), "output \"" + report.name + "\": " + e.what());
    }
    if (first_batch) {
      report.scores = is_scores(x);
      o.probabilities = report.scores && are_probabilities(to_f32(x).read<float>(), index(x.shape().back()));
    }
    const std::span<SampleLoss> losses = add_losses(report, x, out, samples);
    if (report.scores && is_scores(x)) add_scores(report.classes, losses, x, out, o.probabilities, labels);
  }
}

/// What was compared so far.
void write_state(ByteWriter& out, const Comparison& result, const Pairs& pairs) {
  static_assert(std::is_trivially_copyable_v<SampleLoss> && std::is_trivially_copyable_v<ClassStats>);
  for (const OutputReport& o : result.outputs) {
    o.error.write(out);
    out.number(o.scores).bytes(std::as_bytes(std::span(&o.classes, 1))).numbers<SampleLoss>(o.samples);
  }
  for (const auto& [v, pair] : pairs.of) {
    for (const Pair::Output& o : pair.outputs) out.number(o.probabilities);
  }
}

void read_state(ByteReader& in, Comparison& result, Pairs& pairs) {
  for (OutputReport& o : result.outputs) {
    o.error.read(in);
    o.scores = in.flag();
    std::memcpy(&o.classes, in.bytes(sizeof o.classes).data(), sizeof o.classes);
    o.samples = in.numbers<SampleLoss>();
  }
  for (auto& [v, pair] : pairs.of) {
    for (Pair::Output& o : pair.outputs) o.probabilities = in.flag();
  }
}

}  // namespace

struct ErrorStats::Round {
  static constexpr std::size_t lanes = std::tuple_size_v<Lanes>;
  static constexpr float inf = std::numeric_limits<float>::infinity();
  Lanes signal, noise, dot, norm2, max_abs{};
  std::array<float, lanes> low, high, max_signal{};
  std::array<std::int32_t, lanes> usable{}, differ{};

  QTOOL_INLINE void add(const float* x, const float* y) {
    std::array<float, lanes> us, vs;
    for (std::size_t k = 0; k < lanes; ++k) {
      const float size_x = std::fabs(x[k]), size_y = std::fabs(y[k]);
      const bool finite = (size_x < inf) & (size_y < inf);
      const bool alike = (x[k] == y[k]) | ((x[k] != x[k]) & (y[k] != y[k]));
      const float down = finite ? y[k] : inf, up = finite ? y[k] : -inf;
      usable[k] += finite ? 1 : 0;
      differ[k] += (finite | alike) ? 0 : 1;
      low[k] = down < low[k] ? down : low[k];
      high[k] = up > high[k] ? up : high[k];
      us[k] = finite ? x[k] : 0.0F;
      vs[k] = finite ? y[k] : 0.0F;
      max_signal[k] = std::fabs(us[k]) > max_signal[k] ? std::fabs(us[k]) : max_signal[k];
    }
    for (std::size_t k = 0; k < lanes; ++k) {
      const double u = us[k], v = vs[k], d = u - v;
      signal[k] += u * u;
      noise[k] += d * d;
      dot[k] += u * v;
      norm2[k] += v * v;
      max_abs[k] = std::fabs(d) > max_abs[k] ? std::fabs(d) : max_abs[k];
    }
  }
};

void ErrorStats::write(ByteWriter& out) const {
  out.number(max_abs).number(max_signal).number(count).number(compared).number(not_finite).number(low).number(high);
  for (const Lanes* lanes : {&signal_, &noise_, &dot_, &norm2_}) out.bytes(std::as_bytes(std::span(*lanes)));
}

void ErrorStats::read(ByteReader& in) {
  for (double* v : {&max_abs, &max_signal}) *v = in.number<double>();
  for (std::int64_t* v : {&count, &compared, &not_finite}) *v = in.number<std::int64_t>();
  if (count < 0) ByteReader::fail();
  for (double* v : {&low, &high}) *v = in.number<double>();
  for (Lanes* lanes : {&signal_, &noise_, &dot_, &norm2_}) {
    for (double& v : *lanes) v = in.number<double>();
  }
}

void ErrorStats::add_rounds(const float* x, const float* y, std::size_t rounds) {
  Round all{signal_, noise_, dot_, norm2_, {}, {}, {}, {}, {}, {}};
  all.low.fill(Round::inf);
  all.high.fill(-Round::inf);
  with_widest_vectors([&]() QTOOL_INLINE {
    Round round = all;  // a local one: nothing else can be meant by a pointer
    const float *from = x, *to = y;
    for (std::size_t i = 0; i < rounds; ++i, from += Round::lanes, to += Round::lanes) round.add(from, to);
    all = round;
  });
  signal_ = all.signal;
  noise_ = all.noise;
  dot_ = all.dot;
  norm2_ = all.norm2;
  for (std::size_t k = 0; k < Round::lanes; ++k) {
    not_finite += all.differ[k];
    max_abs = std::max(max_abs, all.max_abs[k]);
    max_signal = std::max<double>(max_signal, all.max_signal[k]);
    if (all.usable[k] == 0) continue;
    low = compared == 0 ? all.low[k] : std::min<double>(low, all.low[k]);
    high = compared == 0 ? all.high[k] : std::max<double>(high, all.high[k]);
    compared += all.usable[k];
  }
}

void ErrorStats::add(const Tensor& x, const Tensor& y) {
  if (x.shape() != y.shape()) {
    throw Error(Code::verification,
                "one model gives the shape " + to_string(x.shape()) + ", the other " + to_string(y.shape()));
  }
  const Tensor fx = to_f32(x), fy = to_f32(y);
  add(fx.read<float>(), fy.read<float>());
}

void ErrorStats::add(std::span<const float> a, std::span<const float> b) {
  constexpr std::size_t lanes = Round::lanes;
  // Less than a round: the other lanes get infinities, which count as equal and stay out of everything.
  const auto add_some = [&](std::size_t from, std::size_t n, std::size_t lane) {
    if (n == 0) return;
    std::array<float, lanes> u, v;
    u.fill(INFINITY);
    v.fill(INFINITY);
    std::copy_n(a.data() + from, n, u.data() + lane);
    std::copy_n(b.data() + from, n, v.data() + lane);
    add_rounds(u.data(), v.data(), 1);
  };
  const std::size_t lane = index(count) % lanes, head = std::min(a.size(), (lanes - lane) % lanes);
  const std::size_t rounds = (a.size() - head) / lanes;
  add_some(0, head, lane);
  add_rounds(a.data() + head, b.data() + head, rounds);
  add_some(head + rounds * lanes, a.size() - head - rounds * lanes, 0);
  count += static_cast<std::int64_t>(a.size());
}

double ErrorStats::total(const Lanes& lanes) { return std::accumulate(lanes.begin(), lanes.end(), 0.0); }

double ErrorStats::sqnr_db() const {
  if (not_finite > 0) return -infinite;
  if (noise() == 0) return infinite;
  return signal() == 0 ? -infinite : 10 * std::log10(signal() / noise());
}

double ErrorStats::cosine() const {
  const double x2 = signal(), y2 = total(norm2_);
  if (x2 == 0 && y2 == 0) return 1;
  return x2 == 0 || y2 == 0 ? 0 : total(dot_) / std::sqrt(x2 * y2);
}

Json Comparison::json() const {
  Json list = Json::array();
  for (const OutputReport& o : outputs) {
    Json j = Json::object();
    j.set("name", o.name).set("sqnr_db", o.error.sqnr_db()).set("cosine", o.error.cosine());
    j.set("max_abs", o.error.max_abs).set("max_signal", o.error.max_signal).set("elements", o.error.count);
    j.set("not_finite", o.error.not_finite).set("low", o.error.low).set("high", o.error.high);
    if (o.scores && o.classes.samples > 0) {
      const auto rows = static_cast<double>(o.classes.samples);
      j.set("rows", o.classes.samples).set("agree", static_cast<double>(o.classes.agree) / rows);
      j.set("kl", o.classes.kl / rows);
    }
    if (o.classes.labelled > 0) {
      const auto labelled = static_cast<double>(o.classes.labelled);
      j.set("top1_reference", static_cast<double>(o.classes.reference_right) / labelled);
      j.set("top1_candidate", static_cast<double>(o.classes.candidate_right) / labelled);
    }
    list.push(std::move(j));
  }
  Json layers = Json::array();
  constexpr std::size_t shown = 20;
  for (std::size_t i = 0; i < std::min(shown, worst_layers.size()); ++i) {
    Json j = Json::object();
    j.set("name", worst_layers[i].first).set("sqnr_db", worst_layers[i].second);
    layers.push(std::move(j));
  }
  Json out = Json::object();
  out.set("samples", samples).set("outputs", std::move(list)).set("worst_layers", std::move(layers));
  return out;
}

Comparison compare(const Graph& reference, const Graph& candidate, Reading reading, const Dataset& data,
                   const Graph& bound, Threads& threads, bool layers,
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress,
                   const Unfinished& unfinished) {
  Comparison result;
  Pairs pairs = pair_up(reference, candidate, layers, result);
  constexpr const char* kind = "comparison";
  Rests rests;
  if (Kept* kept = unfinished.kept; kept && kept->work() && !layers) {
    const bool found = kept->find(kind, unfinished.key, Json::object(), [&](ByteReader& in, const Store::Entry&) {
      rests.first = in.number<std::int64_t>();
      if (rests.first < 0 || rests.first > data.batches()) ByteReader::fail();
      read_state(in, result, pairs);
    });
    if (!found) {  // reading may have stopped half-way
      rests.first = 0;
      result = {};
      pairs = pair_up(reference, candidate, layers, result);
    }
    rests.at_rest = [&, kept](std::int64_t done) {
      kept->progress(kind, unfinished.key, Json::object(), [&](ByteWriter& out, const Store&) {
        out.number(done);
        write_state(out, result, pairs);
      });
    };
  }
  std::vector<ValueId> wanted, other_wanted;
  for (const auto& [v, pair] : pairs.of) {
    wanted.push_back(v);
    other_wanted.push_back(pair.candidate);
  }
  KnownOutputs known(layers ? OutputsKept() : unfinished.reference, wanted, data.batches());
  const Executor executor(reference, Reading::reference, threads, data.batches()),
      other(candidate, reading, threads, data.batches());
  DatasetRun run(reference, executor, data, bound, wanted), other_run(candidate, other, data, bound, other_wanted);
  const auto work = [&](std::int64_t i, Turn& turn) {
    const std::vector<std::int64_t> labels = to_int64s(data.labels(i));
    Follower follower(other_run, i);
    const auto compare_with = [&](ValueId v, const Tensor& x) {
      Pair& pair = pairs.of.at(v);
      const Tensor y = follower.value(pair.candidate);
      turn.in_order([&] {
        if (!y.empty()) compare_value(pair, result, x, y, reading, i == 0, data.samples_in(i), labels);
        if (!known.found()) known.add(v, x);
      });
    };
    if (known.found()) {
      for (const ValueId v : wanted) compare_with(v, known.of(v, i));
    } else {
      DatasetRun::Batch batch = run.begin(i);
      while (const auto value = batch.next()) compare_with(value->first, value->second);
    }
    follower.finish();
    if (progress) turn.last([&] { progress(i + 1, data.batches()); });
  };
  const double bytes = run.bytes() + other_run.bytes();
  if (layers) {  // of both models at once, which takes twice the memory of a run: one batch after the other
    for_each_batch(threads, false, data.batches(), bytes, work);
  } else {
    for_each_batch(threads, run, data.batches(), bytes, rests, work);
  }
  known.keep();
  result.samples = data.samples();
  for (auto& [name, error] : pairs.layers) {
    if (error.count > 0) result.worst_layers.emplace_back(std::move(name), error.sqnr_db());
  }
  std::stable_sort(result.worst_layers.begin(), result.worst_layers.end(),
                   [](const auto& a, const auto& b) { return a.second < b.second; });
  return result;
}

}  // namespace qtool

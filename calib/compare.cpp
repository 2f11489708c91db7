// SPDX-License-Identifier: Apache-2.0
#include "calib/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "formats/base/error.h"
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

/// Probabilities or logits: decided once per output.
void add_scores(ClassStats& s, const Tensor& x, const Tensor& y, bool probabilities,
                std::span<const std::int64_t> labels) {
  const Tensor fx = to_f32(x), fy = to_f32(y);
  const auto classes = index(x.shape().back());
  const auto a = fx.read<float>(), b = fy.read<float>();
  std::vector<double> p, q;
  const bool labelled = labels.size() * classes == a.size();
  for (std::size_t row = 0, at = 0; at < a.size(); ++row, at += classes) {
    const auto from = a.subspan(at, classes), to = b.subspan(at, classes);
    ++s.samples;
    // -inf is a score (a masked class); NaN and +inf are not.
    const bool usable = std::none_of(to.begin(), to.end(), [](float v) { return std::isnan(v) || v == INFINITY; });
    const std::size_t best_x = best_of(from), best_y = usable ? best_of(to) : classes;
    s.agree += best_x == best_y ? 1 : 0;
    if (labelled && labels[row] >= 0 && index(labels[row]) < classes) {
      ++s.labelled;
      s.reference_right += best_x == index(labels[row]) ? 1 : 0;
      s.candidate_right += best_y == index(labels[row]) ? 1 : 0;
    }
    if (!usable) {
      s.kl = infinite;
      continue;
    }
    log_probabilities(from, probabilities, p);
    log_probabilities(to, probabilities, q);
    double kl = 0;
    for (std::size_t i = 0; i < classes; ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
    s.kl += std::max(kl, 0.0);
  }
}

/// A value as the reading hands it out: graph outputs may be quantized uses.
Tensor handed_out(const Tensor& t, const Quant& quant, Reading reading) {
  return reading == Reading::quantized && quant ? fake_quantize(t, *quant) : t;
}

/// Pairs of values to compare: at the outputs, and inside.
struct Pairs {
  struct Output {
    ValueId reference, candidate;
    Quant quant;
    bool probabilities = false;
  };
  std::vector<Output> outputs;
  std::map<ValueId, std::size_t> layers;  // of the candidate -> place in the three below
  std::vector<ValueId> layer_references;
  std::vector<std::string> names;
  std::vector<ErrorStats> errors;

  std::vector<ValueId> wanted_reference() const {
    std::set<ValueId> ids(layer_references.begin(), layer_references.end());
    for (const Output& o : outputs) ids.insert(o.reference);
    return {ids.begin(), ids.end()};
  }
  std::vector<ValueId> wanted_candidate() const {
    std::set<ValueId> ids;
    for (const auto& [id, place] : layers) ids.insert(id);
    for (const Output& o : outputs) ids.insert(o.candidate);
    return {ids.begin(), ids.end()};
  }
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
    pairs.outputs.push_back({use.value, other->value, other->quant});
    result.outputs.emplace_back().name = name;
  }
  if (!layers) return pairs;
  const Links links(reference), other_links(candidate);
  for (const NodeId n : reference.order()) {
    for (const ValueId v : reference[n].outputs) {
      if (v == ValueId::none) continue;
      const auto other = candidate.find_value(reference[v].name);
      if (!other || other_links.producer(*other) == NodeId::none) continue;
      if (!pairs.layers.emplace(*other, pairs.names.size()).second) continue;
      pairs.layer_references.push_back(v);
      pairs.names.push_back(reference[v].name);
    }
  }
  pairs.errors.resize(pairs.names.size());
  return pairs;
}

}  // namespace

void ErrorStats::add(const Tensor& x, const Tensor& y) {
  if (x.shape() != y.shape()) {
    throw Error(Code::verification,
                "one model gives the shape " + to_string(x.shape()) + ", the other " + to_string(y.shape()));
  }
  if (x.count() == 0) return;
  const Tensor fx = to_f32(x), fy = to_f32(y);
  const auto a = fx.read<float>(), b = fy.read<float>();
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double u = a[i], v = b[i];
    if (!std::isfinite(u) || !std::isfinite(v)) {
      not_finite += u == v || (std::isnan(u) && std::isnan(v)) ? 0 : 1;
      continue;
    }
    low = compared == 0 ? v : std::min(low, v);
    high = compared == 0 ? v : std::max(high, v);
    ++compared;
    const double d = u - v;
    signal += u * u;
    noise += d * d;
    dot += u * v;
    norm2 += v * v;
    max_abs = std::max(max_abs, std::fabs(d));
    max_signal = std::max(max_signal, std::fabs(u));
  }
  count += x.count();
}

double ErrorStats::sqnr_db() const {
  if (not_finite > 0) return -infinite;
  if (noise == 0) return infinite;
  return signal == 0 ? -infinite : 10 * std::log10(signal / noise);
}

double ErrorStats::cosine() const {
  if (signal == 0 && norm2 == 0) return 1;
  return signal == 0 || norm2 == 0 ? 0 : dot / std::sqrt(signal * norm2);
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
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  Comparison result;
  Pairs pairs = pair_up(reference, candidate, layers, result);
  const Executor executor(reference, Reading::reference, threads), other(candidate, reading, threads);
  DatasetRun run(reference, executor, data, bound), other_run(candidate, other, data, bound);
  const std::vector<ValueId> wanted = pairs.wanted_reference(), other_wanted = pairs.wanted_candidate();
  for (std::int64_t batch = 0; batch < data.batches(); ++batch) {
    std::map<ValueId, Tensor> values;
    run.next(wanted, [&](ValueId v, const Tensor& t) { values[v] = t; });
    const std::vector<std::int64_t> labels = to_int64s(data.labels(batch));
    other_run.next(other_wanted, [&](ValueId v, const Tensor& t) {
      if (const auto layer = pairs.layers.find(v); layer != pairs.layers.end()) {
        const Tensor& x = values[pairs.layer_references[layer->second]];
        // Inner values of one name may have become something else; only like ones are compared.
        if (is_float(x.dtype()) && is_float(t.dtype()) && x.shape() == t.shape()) pairs.errors[layer->second].add(x, t);
      }
      for (std::size_t i = 0; i < pairs.outputs.size(); ++i) {
        Pairs::Output& o = pairs.outputs[i];
        OutputReport& report = result.outputs[i];
        if (o.candidate != v || !numeric(t.dtype())) continue;
        const Tensor& x = values[o.reference];
        const Tensor y = handed_out(t, o.quant, reading);
        try {
          report.error.add(x, y);
        } catch (const Error& e) {
          throw Error(e.code(), "output \"" + report.name + "\": " + e.what());
        }
        if (batch == 0) {
          report.scores = is_scores(x);
          const Tensor f = to_f32(x);
          o.probabilities = report.scores && are_probabilities(f.read<float>(), index(x.shape().back()));
        }
        if (report.scores && is_scores(x)) add_scores(report.classes, x, y, o.probabilities, labels);
      }
    });
    if (progress) progress(batch + 1, data.batches());
  }
  result.samples = data.samples();
  for (std::size_t i = 0; i < pairs.names.size(); ++i) {
    if (pairs.errors[i].count > 0) result.worst_layers.emplace_back(pairs.names[i], pairs.errors[i].sqnr_db());
  }
  std::stable_sort(result.worst_layers.begin(), result.worst_layers.end(),
                   [](const auto& a, const auto& b) { return a.second < b.second; });
  return result;
}

}  // namespace qtool

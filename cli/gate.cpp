// SPDX-License-Identifier: Apache-2.0
#include "cli/gate.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "cli/text.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

[[noreturn]] void cannot_measure(const Gate& gate, const std::string& limit, const std::string& why) {
  throw Error(Code::calibration, gate.place.text() + ": the gate's " + limit + " cannot be measured: " + why);
}

/// The sides of a limit.
enum class Wanted : std::uint8_t { at_least, at_most };

GateLimit judged(std::string name, std::string output, double limit, const Bounded& measured, Wanted wanted,
                 std::size_t samples) {
  GateLimit g{std::move(name), std::move(output), limit, measured, Verdict::undecided, 0};
  const bool least = wanted == Wanted::at_least;
  const double worst = least ? measured.low : measured.high, best = least ? measured.high : measured.low;
  if (least ? worst >= limit : worst <= limit) {
    g.verdict = Verdict::met;
  } else if (least ? best < limit : best > limit) {
    g.verdict = Verdict::missed;
  } else {
    // Bounds draw in with the root of the number of samples.
    const bool within = least ? measured.value >= limit : measured.value <= limit;
    const double reach = std::abs((within ? worst : best) - measured.value), gap = std::abs(measured.value - limit);
    const double n = static_cast<double>(samples);
    g.more_samples = gap == 0 || std::isinf(reach) ? INFINITY : std::ceil(n * (reach / gap) * (reach / gap)) - n;
  }
  return g;
}

GateLimit exact(std::string name, double limit, double value, Wanted wanted) {
  return judged(std::move(name), "", limit, {value, value, value}, wanted, 1);
}

/// One figure of every sample that has it.
std::vector<double> column(const OutputReport& output, double SampleLoss::*figure) {
  std::vector<double> values;
  for (const SampleLoss& s : output.samples) values.push_back(s.*figure);
  return values;
}

/// In decibels; more noise is less.
Bounded sqnr_of(const OutputReport& output) {
  const Bounded share = ratio_of_sums(column(output, &SampleLoss::noise), column(output, &SampleLoss::signal));
  const double value = output.error.sqnr_db();
  if (output.error.noise() == 0 || output.error.not_finite > 0) return {value, value, value};
  const auto db = [](double ratio) { return ratio > 0 ? -10 * std::log10(ratio) : INFINITY; };
  return {value, db(share.high), db(share.low)};
}

Bounded perplexity_of(const OutputReport& output) {
  const Bounded nats = ratio_of_sums(column(output, &SampleLoss::surprise), column(output, &SampleLoss::labelled));
  return {std::exp(nats.value), std::exp(nats.low), std::exp(nats.high)};
}

/// "29.4 (95 %: 28.1 to 30.9)"
std::string text_of(const Bounded& b) {
  std::string text = significant(b.value, 4);
  if (b.low != b.high) text += " (95 %: " + significant(b.low, 4) + " to " + significant(b.high, 4) + ")";
  return text;
}

std::string need_text(const GateLimit& limit) {
  if (std::isinf(limit.more_samples)) return ": undecided, no number of samples like these would tell";
  return ": undecided, needs about " + grouped(static_cast<std::uint64_t>(limit.more_samples)) + " more samples";
}

std::string_view name_of(Verdict v) {
  return v == Verdict::met ? "met" : v == Verdict::missed ? "missed" : "undecided";
}

bool has_scores(const OutputReport& output) { return output.scores && output.classes.samples > 0; }
bool has_labels(const OutputReport& output) { return has_scores(output) && output.classes.labelled > 0; }

Json finite(double v) { return std::isfinite(v) ? Json(v) : Json(); }

}  // namespace

Json GateLimit::json() const {
  Json object = Json::object();
  object.set("name", name);
  if (!output.empty()) object.set("output", output);
  object.set("limit", limit).set("measured", finite(measured.value));
  object.set("low", finite(measured.low)).set("high", finite(measured.high)).set("verdict", name_of(verdict));
  if (verdict == Verdict::undecided) object.set("more_samples", finite(more_samples));
  return object;
}

std::vector<GateLimit> judge(const Gate& gate, const OutputReport& output) {
  std::vector<GateLimit> limits;
  const auto add = [&](const char* name, const std::optional<double>& limit, Wanted wanted, const auto& measure) {
    if (limit) limits.push_back(judged(name, output.name, *limit, measure(), wanted, output.samples.size()));
  };
  const auto of = [&](double SampleLoss::*figure) { return column(output, figure); };
  add("sqnr_db", gate.sqnr_db, Wanted::at_least, [&] { return sqnr_of(output); });
  if (!has_scores(output)) return limits;
  add("kl", gate.kl, Wanted::at_most, [&] { return ratio_of_sums(of(&SampleLoss::kl), of(&SampleLoss::rows)); });
  add("agreement", gate.agreement, Wanted::at_least,
      [&] { return share(of(&SampleLoss::agree), of(&SampleLoss::rows)); });
  if (!has_labels(output)) return limits;
  add("top1_drop", gate.top1_drop, Wanted::at_most,
      [&] { return paired_drop(of(&SampleLoss::lost), of(&SampleLoss::won), of(&SampleLoss::labelled)); });
  add("perplexity_ratio", gate.perplexity_ratio, Wanted::at_most, [&] { return perplexity_of(output); });
  return limits;
}

std::vector<GateLimit> judge(const Gate& gate, const Comparison* comparison, const ModelFigures& figures) {
  std::vector<GateLimit> limits;
  if (gate.size_ratio) limits.push_back(exact("size_ratio", *gate.size_ratio, figures.size_ratio, Wanted::at_most));
  if (gate.integer_share) {
    limits.push_back(exact("integer_share", *gate.integer_share, figures.integer_share, Wanted::at_least));
  }
  if (!gate.needs_data()) return limits;
  if (!comparison) cannot_measure(gate, "limit", "there are no held-out data");
  for (const OutputReport& output : comparison->outputs) {
    for (GateLimit& limit : judge(gate, output)) limits.push_back(std::move(limit));
  }
  const auto any = [&](bool (*has)(const OutputReport&)) {
    return std::any_of(comparison->outputs.begin(), comparison->outputs.end(), has);
  };
  const char* no_scores = "no output holds class scores";
  const char* no_labels = "the evaluation data have no labels";
  if (gate.kl && !any(has_scores)) cannot_measure(gate, "kl", no_scores);
  if (gate.agreement && !any(has_scores)) cannot_measure(gate, "agreement", no_scores);
  if (gate.top1_drop && !any(has_labels)) cannot_measure(gate, "top1_drop", no_labels);
  if (gate.perplexity_ratio && !any(has_labels)) cannot_measure(gate, "perplexity_ratio", no_labels);
  return limits;
}

void hold_to(const Gate& gate, const std::vector<GateLimit>& limits, const std::string& what) {
  std::string missed;
  bool undecided_only = true;
  for (const GateLimit& limit : limits) {
    if (limit.verdict == Verdict::met || (limit.verdict == Verdict::undecided && gate.pass_undecided)) continue;
    undecided_only = undecided_only && limit.verdict == Verdict::undecided;
    missed += (missed.empty() ? "" : "; ") + limit.name + (limit.output.empty() ? "" : " of \"" + limit.output + "\"") +
              " is " + text_of(limit.measured) + ", the limit is " + significant(limit.limit, 4);
    if (limit.verdict == Verdict::undecided) missed += need_text(limit);
  }
  if (missed.empty()) return;
  throw Error(Code::gate, gate.place.text() + ": " + what + ": " + missed,
              undecided_only
                  ? "nothing was written; give more held-out samples, loosen the limit, or say `undecided: pass`"
                  : "nothing was written; keep the worst layers float, take another recipe, or loosen the limit");
}

void check_sanity(const Comparison& comparison) {
  for (const OutputReport& output : comparison.outputs) {
    const ErrorStats& e = output.error;
    if (e.not_finite > 0) {
      throw Error(Code::verification,
                  "output \"" + output.name + "\" of the written model holds " + std::to_string(e.not_finite) +
                      " values that are not finite where the input model has numbers; nothing was published");
    }
    // A constant output equals its reference only when that is constant too; then there is no noise.
    if (e.count > 1 && e.low == e.high && e.noise() > 0 && e.sqnr_db() < 0.5) {
      throw Error(
          Code::verification,
          "output \"" + output.name + "\" of the written model is the same for every sample; nothing was published",
          "measure the ranges on typical data, or keep the last layers float");
    }
  }
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/ratchet.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/schema.h"

namespace qtool {
namespace {

constexpr double most_samples = 1 << 26;  // of a report

std::optional<double> number(const Json& object, std::string_view name) {
  const Json* value = object.find(name);
  return value && value->is_number() ? std::optional(value->as_number()) : std::nullopt;
}

/// What the last model reached with this output.
Gate limits_of(const Json& output) {
  Gate gate;
  gate.sqnr_db = number(output, "sqnr_db");
  gate.kl = number(output, "kl");
  gate.agreement = number(output, "agree");
  const auto before = number(output, "top1_reference"), after = number(output, "top1_candidate");
  if (before && after) gate.top1_drop = *before - *after;
  return gate;
}

/// Six digits: half as long in the file, and far below what chance moves.
double shortened(double v) {
  if (v == 0 || !std::isfinite(v)) return v;
  const double unit = std::pow(10.0, 5 - std::floor(std::log10(std::abs(v))));
  return std::isfinite(unit) && unit > 0 ? std::round(v * unit) / unit : v;
}

using Figures = std::vector<double>;

Json list_of(const Figures& values) {
  const bool one = std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; });
  if (one && !values.empty()) return std::isfinite(values[0]) ? Json(values[0]) : Json();
  Json list = Json::array();
  for (const double v : values) list.push(std::isfinite(v) ? Json(v) : Json());
  return list;
}

/// Numbers of `count` samples; empty when there are none, or not so many.
Figures figures_in(const Json& object, const char* name, std::size_t count) {
  const Json* member = object.find(name);
  if (!member) return {};
  if (member->is_number()) return Figures(count, member->as_number());
  Figures values;
  if (!member->is_array() || member->as_array().size() != count) return {};
  for (const Json& v : member->as_array()) {
    if (!v.is_number()) return {};
    values.push_back(v.as_number());
  }
  return values;
}

/// One figure: losses of samples over weights; more is worse.
struct Figure {
  const char *name, *loss, *weight;
  double (*of)(const SampleLoss&);
  double (*by)(const SampleLoss&);
  double (*shown)(double ratio);
};

const std::vector<Figure>& figures() {
  static const std::vector<Figure> all{
      {"sqnr_db", "noise", "signal", [](const SampleLoss& s) { return s.noise; },
       [](const SampleLoss& s) { return s.signal; },
       [](double r) { return r > 0 ? -10 * std::log10(r) : static_cast<double>(INFINITY); }},
      {"kl", "kl", "rows", [](const SampleLoss& s) { return s.kl; }, [](const SampleLoss& s) { return s.rows; },
       [](double r) { return r; }},
      {"agreement", "disagree", "rows", [](const SampleLoss& s) { return s.rows - s.agree; },
       [](const SampleLoss& s) { return s.rows; }, [](double r) { return 1 - r; }},
      {"top1_drop", "drop", "labelled", [](const SampleLoss& s) { return s.lost - s.won; },
       [](const SampleLoss& s) { return s.labelled; }, [](double r) { return r; }},
  };
  return all;
}

bool has(const Figure& f, const OutputReport& o) {
  if (std::string_view(f.name) == "sqnr_db") return true;
  return o.scores && (std::string_view(f.name) == "top1_drop" ? o.classes.labelled > 0 : o.classes.samples > 0);
}

Figures column(const OutputReport& output, double (*of)(const SampleLoss&)) {
  Figures values;
  for (const SampleLoss& s : output.samples) values.push_back(shortened(of(s)));
  return values;
}

bool alike(const Figures& a, const Figures& b) {
  constexpr double kernels = 1e-4;  // of another processor
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return std::abs(x - y) <= kernels * std::abs(y); });
}

double ratio(const Figures& losses, const Figures& weights) {
  double above = 0, below = 0;
  for (const double v : losses) above += v;
  for (const double v : weights) below += v;
  return above / below;
}

/// How much worse the figure has become: of the same samples in pairs, else of samples that chance drew twice.
Bounded difference(const Figures& now, const Figures& by, const Figures& then, const Figures& then_by, bool same_data) {
  if (same_data && alike(by, then_by)) {
    Figures worse;
    for (std::size_t i = 0; i < now.size(); ++i) worse.push_back(now[i] - then[i]);
    return ratio_of_sums(worse, by);
  }
  const Bounded a = ratio_of_sums(now, by), b = ratio_of_sums(then, then_by);
  const double d = a.value - b.value;
  return {d, d - std::hypot(a.value - a.low, b.high - b.value), d + std::hypot(a.high - a.value, b.value - b.low)};
}

GateLimit held(const Figure& f, const std::string& output, double before, const Bounded& worse) {
  constexpr double least = 1e-3;
  const double slack = least * std::abs(before);
  const double low = f.shown(before + worse.low), high = f.shown(before + worse.high);
  GateLimit limit{f.name,
                  output,
                  f.shown(before),
                  {f.shown(before + worse.value), std::min(low, high), std::max(low, high)},
                  Verdict::undecided,
                  INFINITY};
  if (worse.high <= slack) limit.verdict = Verdict::met;
  if (worse.low > slack) limit.verdict = Verdict::missed;
  return limit;
}

}  // namespace

Json losses_json(const Comparison& comparison) {
  Json list = Json::array();
  for (const OutputReport& output : comparison.outputs) {
    Json row = Json::object();
    row.set("name", output.name).set("samples", static_cast<std::int64_t>(output.samples.size()));
    for (const Figure& f : figures()) {
      if (!has(f, output)) continue;
      row.set(f.weight, list_of(column(output, f.by))).set(f.loss, list_of(column(output, f.of)));
    }
    list.push(std::move(row));
  }
  return list;
}

Ratchet::Ratchet(const std::filesystem::path& report) : report_(Json::parse(read_text(report), report.string())) {
  gate_.place.file = report.string();
  gate_.pass_undecided = true;
  // Reports of versions before schemas had a name hold the same.
  if (report_.find("schema")) {
    check_schema(report_, schema::report, report.string(), "make the report again with `qtool quantize ... --json`");
  }
  const Json* comparison = report_.find("comparison");
  const Json* outputs = comparison ? comparison->find("outputs") : nullptr;
  const Json* data = report_.find("evaluation_sha256");
  if (!outputs || !outputs->is_array() || !number(report_, "output_bytes") || !data || !data->is_string()) {
    throw Error(Code::usage, report.string() + ": this is no report of a model that was measured on held-out data",
                "make one with `qtool quantize ... --eval DATA --json " + report.string() + "`");
  }
}

std::string Ratchet::check_data(const std::string& evaluation) {
  same_data_ = report_.find("evaluation_sha256")->as_string() == evaluation;
  if (same_data_) return {};
  if (!report_.find("losses")) {
    throw Error(Code::usage, gate_.place.file + ": its figures were measured on other held-out data",
                "take the same --eval, or make the report again");
  }
  return gate_.place.file +
         " is of other held-out data: the models are not compared sample by sample, and chance counts twice";
}

std::vector<GateLimit> Ratchet::judge(const Comparison& comparison, std::uint64_t output_bytes) const {
  const double before = *number(report_, "output_bytes"), now = static_cast<double>(output_bytes);
  std::vector<GateLimit> limits{
      {"output_bytes", "", before, {now, now, now}, now <= before ? Verdict::met : Verdict::missed, 0}};
  const auto output_of = [&](const Json& old) {
    const Json* name = old.find("name");
    return std::find_if(comparison.outputs.begin(), comparison.outputs.end(), [&](const OutputReport& o) {
      return name && name->is_string() && o.name == name->as_string();
    });
  };
  const Json* losses = report_.find("losses");
  if (!losses || !losses->is_array()) {  // of versions that did not tell them
    for (const Json& old : report_.find("comparison")->find("outputs")->as_array()) {
      const auto output = output_of(old);
      if (output == comparison.outputs.end()) continue;
      for (GateLimit& limit : qtool::judge(limits_of(old), *output)) limits.push_back(std::move(limit));
    }
    return limits;
  }
  for (const Json& old : losses->as_array()) {
    const auto output = output_of(old);
    const auto samples = number(old, "samples");
    if (output == comparison.outputs.end() || !samples || *samples < 1 || *samples > most_samples) continue;
    for (const Figure& f : figures()) {
      if (!has(f, *output)) continue;
      const auto count = static_cast<std::size_t>(*samples);
      const Figures then = figures_in(old, f.loss, count), by = figures_in(old, f.weight, count);
      if (then.empty() || by.empty()) continue;
      const Bounded worse = difference(column(*output, f.of), column(*output, f.by), then, by, same_data_);
      limits.push_back(held(f, output->name, qtool::ratio(then, by), worse));
    }
  }
  return limits;
}

void Ratchet::hold(const std::vector<GateLimit>& limits) const {
  hold_to(gate_, limits, "the model is worse than the last one");
}

}  // namespace qtool

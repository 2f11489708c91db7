// SPDX-License-Identifier: Apache-2.0
#include "cli/gate.h"

#include <cmath>

#include "cli/text.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

[[noreturn]] void cannot_measure(const Gate& gate, const std::string& limit, const std::string& why) {
  throw Error(Code::calibration, gate.place.text() + ": the gate's " + limit + " cannot be measured: " + why);
}

double rate(std::int64_t part, std::int64_t all) { return static_cast<double>(part) / static_cast<double>(all); }

}  // namespace

Json GateLimit::json() const {
  Json object = Json::object();
  object.set("name", name);
  if (!output.empty()) object.set("output", output);
  object.set("limit", limit).set("measured", std::isfinite(measured) ? Json(measured) : Json()).set("met", met);
  return object;
}

std::vector<GateLimit> judge(const Gate& gate, const Comparison* comparison, double size_ratio) {
  std::vector<GateLimit> limits;
  if (gate.size_ratio) {
    limits.push_back({"size_ratio", "", *gate.size_ratio, size_ratio, size_ratio <= *gate.size_ratio});
  }
  if (!gate.needs_data()) return limits;
  if (!comparison) cannot_measure(gate, "limit", "there are no held-out data");
  bool scores = false, labelled = false;
  for (const OutputReport& output : comparison->outputs) {
    if (gate.sqnr_db) {
      const double sqnr = output.error.sqnr_db();
      limits.push_back({"sqnr_db", output.name, *gate.sqnr_db, sqnr, sqnr >= *gate.sqnr_db});
    }
    const ClassStats& c = output.classes;
    if (!output.scores || c.samples == 0) continue;
    scores = true;
    if (gate.kl) {
      const double kl = c.kl / static_cast<double>(c.samples);
      limits.push_back({"kl", output.name, *gate.kl, kl, kl <= *gate.kl});
    }
    if (gate.agreement) {
      const double same = rate(c.agree, c.samples);
      limits.push_back({"agreement", output.name, *gate.agreement, same, same >= *gate.agreement});
    }
    if (gate.top1_drop && c.labelled > 0) {
      labelled = true;
      const double drop = rate(c.reference_right - c.candidate_right, c.labelled);
      limits.push_back({"top1_drop", output.name, *gate.top1_drop, drop, drop <= *gate.top1_drop});
    }
  }
  if (gate.kl && !scores) cannot_measure(gate, "kl", "no output holds class scores");
  if (gate.agreement && !scores) cannot_measure(gate, "agreement", "no output holds class scores");
  if (gate.top1_drop && !labelled) cannot_measure(gate, "top1_drop", "the evaluation data have no labels");
  return limits;
}

void hold_to(const Gate& gate, const std::vector<GateLimit>& limits) {
  std::string missed;
  for (const GateLimit& limit : limits) {
    if (limit.met) continue;
    missed += (missed.empty() ? "" : "; ") + limit.name + (limit.output.empty() ? "" : " of \"" + limit.output + "\"") +
              " is " + significant(limit.measured, 4) + ", the limit is " + significant(limit.limit, 4);
  }
  if (missed.empty()) return;
  throw Error(Code::gate, gate.place.text() + ": the model missed the gate: " + missed,
              "nothing was written; keep the worst layers float, take another recipe, or loosen the limit");
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

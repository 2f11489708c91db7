// SPDX-License-Identifier: Apache-2.0
#include "cli/ratchet.h"

#include <algorithm>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/schema.h"

namespace qtool {
namespace {

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

}  // namespace

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

void Ratchet::check_data(const std::string& evaluation) const {
  if (report_.find("evaluation_sha256")->as_string() == evaluation) return;
  throw Error(Code::usage, gate_.place.file + ": its figures were measured on other held-out data",
              "take the same --eval, or make the report again");
}

std::vector<GateLimit> Ratchet::judge(const Comparison& comparison, std::uint64_t output_bytes) const {
  const double before = *number(report_, "output_bytes"), now = static_cast<double>(output_bytes);
  std::vector<GateLimit> limits{
      {"output_bytes", "", before, {now, now, now}, now <= before ? Verdict::met : Verdict::missed, 0}};
  for (const Json& old : report_.find("comparison")->find("outputs")->as_array()) {
    const Json* name = old.find("name");
    const auto output = std::find_if(comparison.outputs.begin(), comparison.outputs.end(), [&](const OutputReport& o) {
      return name && name->is_string() && o.name == name->as_string();
    });
    if (output == comparison.outputs.end()) continue;
    for (GateLimit& limit : qtool::judge(limits_of(old), *output)) limits.push_back(std::move(limit));
  }
  return limits;
}

void Ratchet::hold(const std::vector<GateLimit>& limits) const {
  hold_to(gate_, limits, "the model is worse than the last one");
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/ratchet.h"
#include "cli/text.h"
#include "formats/schema.h"

namespace qtool {
namespace {

Json facts_of(const std::vector<Json>& facts, std::string_view kind) {
  Json list = Json::array();
  for (const Json& fact : facts) {
    if (text_in(fact, "kind") != kind) continue;
    Json rest = Json::object();
    for (const auto& [name, value] : fact.as_object()) {
      if (name != "kind") rest.set(name, value);
    }
    list.push(std::move(rest));
  }
  return list;
}

double rate(std::int64_t part, std::int64_t all) {
  return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
}

std::string sqnr_text(double db) { return std::isinf(db) && db > 0 ? "exact" : fixed(db, 2); }

/// "conv1, conv2, conv3 and 4 more".
std::string some_of(const std::vector<std::string>& names) {
  constexpr std::size_t shown = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(shown, names.size()); ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > shown) text += " and " + std::to_string(names.size() - shown) + " more";
  return text;
}

/// Nodes by what is said about them, in order of first mention.
class Groups {
 public:
  void add(const std::string& what, const std::string& node) {
    auto& nodes = nodes_[what];
    if (nodes.empty()) order_.push_back(what);
    nodes.push_back(node);
  }
  std::string text(const std::string& title) const {
    if (order_.empty()) return {};
    Table table({});
    table.left(1).left(2);
    for (const std::string& what : order_) {
      const auto& nodes = nodes_.at(what);
      table.row({std::to_string(nodes.size()), what, some_of(nodes)});
    }
    return title + "\n" + table.text("  ");
  }

 private:
  std::vector<std::string> order_;
  std::map<std::string, std::vector<std::string>> nodes_;
};

Json limits_json(const std::vector<GateLimit>& limits) {
  Json list = Json::array();
  for (const GateLimit& limit : limits) list.push(limit.json());
  return list;
}

}  // namespace

Json latency_json(const Latency& latency) {
  if (latency.nodes.empty()) return {};
  Json json = Json::object();
  json.set("float_ms", latency.in_float / 1e6).set("quantized_ms", latency.as_decided / 1e6);
  json.set("conversions_ms", latency.conversions / 1e6);
  return json;
}

void add_decisions(Json& report, const std::vector<Json>& facts) {
  for (const auto& [name, kind] :
       {std::pair{"changes", "change"}, std::pair{"layers", "layer"}, std::pair{"emitted", "emit"},
        std::pair{"skips", "skip"}, std::pair{"slower", "slower"}, std::pair{"warnings", "warning"}}) {
    report.set(name, facts_of(facts, kind));
  }
}

Json job_report(const JobRequest& request, const Recipe& recipe, const JobResult& result,
                const std::vector<GateLimit>& limits, const std::vector<GateLimit>& ratchet,
                const std::vector<Json>& facts) {
  Json report = Json::object();
  report.set("schema", schema::report).set("qtool", QTOOL_VERSION).set("command", "quantize");
  report.set("model", request.model.string()).set("output", result.output.string());
  report.set("recipe", recipe.name).set("target", recipe.target).set("seed", request.seed);
  Json changes = Json::array();
  for (const std::string& assignment : request.set) changes.push(assignment);
  report.set("set", std::move(changes));
  report.set("input_bytes", result.input_bytes).set("output_bytes", result.output_bytes);
  report.set("latency", latency_json(result.latency));
  report.set("compared_on", !result.comparison ? Json() : result.compared_on_eval ? Json("eval") : Json("calibration"));
  report.set("comparison", result.comparison ? result.comparison->json() : Json());
  if (result.comparison && result.compared_on_eval) report.set("losses", losses_json(*result.comparison));
  report.set("gate", limits_json(limits)).set("ratchet", limits_json(ratchet));
  report.set("steps", facts_of(facts, "step"));
  add_decisions(report, facts);
  Json remarks = Json::array();
  for (const std::string& remark : result.remarks) remarks.push(remark);
  report.set("remarks", std::move(remarks));
  return report;
}

std::string comparison_text(const Comparison& comparison) {
  bool scores = false, labels = false;
  for (const OutputReport& output : comparison.outputs) {
    scores = scores || (output.scores && output.classes.samples > 0);
    labels = labels || output.classes.labelled > 0;
  }
  std::vector<std::string> head{"output", "SQNR, dB", "cosine", "max error", "max value"};
  if (scores) head.insert(head.end(), {"same top-1", "KL, nats"});
  if (labels) head.emplace_back("accuracy");
  Table table(head);
  for (const OutputReport& output : comparison.outputs) {
    const ErrorStats& e = output.error;
    std::vector<std::string> row{output.name, sqnr_text(e.sqnr_db()), fixed(e.cosine(), 6), significant(e.max_abs, 4),
                                 significant(e.max_signal, 4)};
    const ClassStats& c = output.classes;
    const bool has_scores = output.scores && c.samples > 0;
    if (scores) {
      row.push_back(has_scores ? percent(rate(c.agree, c.samples)) : "");
      row.push_back(has_scores ? significant(c.kl / static_cast<double>(c.samples), 3) : "");
    }
    if (labels) {
      row.push_back(c.labelled == 0 ? ""
                                    : percent(rate(c.reference_right, c.labelled)) + " -> " +
                                          percent(rate(c.candidate_right, c.labelled)));
    }
    table.row(std::move(row));
  }
  return table.text();
}

std::string worst_layers_text(const Comparison& comparison, const std::string& title) {
  constexpr std::size_t most = 5;
  Table table({title, "SQNR, dB"});
  for (std::size_t i = 0; i < std::min(most, comparison.worst_layers.size()); ++i) {
    const auto& [name, db] = comparison.worst_layers[i];
    if (std::isfinite(db) || db < 0) table.row({name, sqnr_text(db)});
  }
  return table.empty() ? "" : table.text();
}

/// What passes say that weigh errors by outputs, of the layers whose outputs lost the most: those that tell `from`,
/// what they began with.
std::string layer_errors_text(const std::vector<Json>& facts, const char* from, const char* title) {
  constexpr std::size_t most = 5;
  std::vector<const Json*> layers;
  for (const Json& fact : facts) {
    if (text_in(fact, "kind") == "layer" && fact.find(from) != nullptr) layers.push_back(&fact);
  }
  const auto error = [](const Json* fact, const char* name) { return fact->find(name)->as_number(); };
  std::stable_sort(layers.begin(), layers.end(),
                   [&](const Json* a, const Json* b) { return error(a, "error") > error(b, "error"); });
  Table table({"error of outputs, share of their power", "as written", title});
  for (std::size_t i = 0; i < std::min(most, layers.size()); ++i) {
    table.row({text_in(*layers[i], "node"), percent(error(layers[i], "error")), percent(error(layers[i], from))});
  }
  return table.empty() ? "" : table.text();
}

std::string decisions_text(const std::vector<Json>& facts) {
  Groups emitted, skipped, slower;
  for (const Json& fact : facts) {
    const std::string kind = text_in(fact, "kind"), node = text_in(fact, "node");
    if (kind == "emit") emitted.add(text_in(fact, "kernel"), node);
    if (kind == "skip") skipped.add(text_in(fact, "pass") + ": " + text_in(fact, "why"), node);
    if (kind == "slower") slower.add(text_in(fact, "why"), node);
  }
  std::string text = emitted.text("quantized:");
  for (const std::string& more : {skipped.text("skipped:"), slower.text("larger or slower than float:")}) {
    if (!more.empty()) text += (text.empty() ? "" : "\n") + more;
  }
  return text;
}

std::string job_text(const JobRequest& request, const JobResult& result, const std::vector<Json>& facts) {
  std::string text = request.model.string() + " -> " + result.output.string() + "\n";
  const double in = static_cast<double>(result.input_bytes), out = static_cast<double>(result.output_bytes);
  text += "size: " + bytes_text(result.input_bytes) + " -> " + bytes_text(result.output_bytes) + ", " +
          (out <= in ? fixed(in / out, 2) + " times smaller" : fixed(out / in, 2) + " times larger") + "\n";
  if (!result.latency.nodes.empty()) {
    text += "time for one sample, estimated on one thread: " + fixed(result.latency.in_float / 1e6, 3) + " -> " +
            fixed(result.latency.as_decided / 1e6, 3) + " ms\n";
  }
  if (result.comparison) {
    text += "\n" + comparison_text(*result.comparison);
    text += "measured on " + grouped(static_cast<std::uint64_t>(result.comparison->samples)) +
            (result.compared_on_eval ? " held-out samples" : " calibration samples") + ", against the input model\n";
    const std::string layers = worst_layers_text(*result.comparison, "worst layers");
    if (!layers.empty()) text += "\n" + layers;
  }
  for (const auto& [from, title] :
       {std::pair{"error_nearest", "nearest codes"}, std::pair{"error_before", "untuned"}}) {
    const std::string layer_errors = layer_errors_text(facts, from, title);
    if (!layer_errors.empty()) text += "\n" + layer_errors;
  }
  const std::string decisions = decisions_text(facts);
  if (!decisions.empty()) text += "\n" + decisions;
  if (const Json* gate = result.report.find("gate"); gate && !gate->as_array().empty()) {
    const auto& limits = gate->as_array();
    const auto count = [&](std::string_view verdict) {
      return std::count_if(limits.begin(), limits.end(),
                           [&](const Json& l) { return text_in(l, "verdict") == verdict; });
    };
    const std::string all = std::to_string(limits.size()) + (limits.size() == 1 ? " limit" : " limits");
    const auto missed = count("missed"), undecided = count("undecided");
    const std::string how = missed > 0 ? "missed" : undecided > 0 ? "undecided" : "met";
    text += "\ngate: " + how + " (" + (how == "met" ? "" : std::to_string(missed > 0 ? missed : undecided) + " of ") +
            all + ")\n";
  }
  for (const std::string& remark : result.remarks) text += "\nnote: " + remark;
  return text + (result.remarks.empty() ? "" : "\n");
}

}  // namespace qtool

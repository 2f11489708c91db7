// SPDX-License-Identifier: Apache-2.0
#include "cli/bill.h"

#include <algorithm>

#include "backends/cpu/cpu.h"
#include "calib/one_sample.h"
#include "cli/bill_tensors.h"
#include "cli/data_options.h"
#include "cli/job_parts.h"
#include "cli/memory.h"
#include "cli/report.h"
#include "cli/speed.h"
#include "cli/text.h"
#include "cli/weights.h"
#include "formats/base/error.h"
#include "formats/multiply_adds.h"

namespace qtool {
namespace {

std::shared_ptr<const Dataset> open_if_named(const Graph& graph, const DataOptions& options) {
  return has_data(options) ? std::shared_ptr<const Dataset>(open_dataset(graph, options)) : nullptr;
}

/// What stands in the file about its making, in as many bytes.
Provenance some_provenance(const Dataset* calib, bool calibrated) {
  const std::string digest(2 * sizeof(Digest), '0');
  return {digest, digest, calib, nullptr, calibrated ? digest : "", ""};
}

/// The step that gives formats where no rule does.
std::string decider(const JobSetup& setup) {
  for (const BoundStep& step : setup.steps) {
    if (step.def->follows_rules) return std::string(step.def->name);
  }
  return {};
}

BillBytes interval(std::uint64_t planned, const Forecast& forecast) {
  std::int64_t fewer = 0, more = 0;
  for (const ForecastDoubt& doubt : forecast.doubts) fewer += doubt.fewer, more += doubt.more;
  const std::uint64_t down = std::min(planned, static_cast<std::uint64_t>(fewer));
  return {planned, planned - down, planned + static_cast<std::uint64_t>(more)};
}

Json tensors_json(const std::vector<BillTensor>& tensors) {
  Json list = Json::array();
  for (const BillTensor& t : tensors) {
    Json row = Json::object();
    Json shape = Json::array();
    for (const std::int64_t n : t.type.shape) shape.push(n);
    row.set("name", t.name).set("node", t.node).set("dtype", name_of(t.type.dtype)).set("shape", std::move(shape));
    row.set("format", t.format.empty() ? Json() : Json(t.format));
    row.set("decided_by", t.decided_by.empty() ? Json() : Json(t.decided_by));
    row.set("why_float", t.why_float.empty() ? Json() : Json(t.why_float));
    list.push(row.set("bytes_before", t.before).set("bytes", t.after));
  }
  return list;
}

Json multiply_adds_json(const Bill& bill) {
  Json json = Json::object();
  const auto at = [&](Precision p) { return bill.multiply_adds[static_cast<std::size_t>(p)]; };
  json.set("float", at(Precision::floating)).set("integer", at(Precision::integer));
  return json.set("dynamic", at(Precision::dynamic)).set("weight_only", at(Precision::weight_only));
}

Json report_of(const JobRequest& request, const Recipe& recipe, const Bill& bill, const std::vector<Json>& facts) {
  Json report = Json::object();
  report.set("schema", "qtool.plan/1").set("qtool", QTOOL_VERSION).set("command", "plan");
  report.set("model", request.model.string()).set("output", bill.output.string());
  report.set("recipe", recipe.name).set("target", recipe.target);
  report.set("input_bytes", bill.input_bytes).set("output_bytes", bill.bytes.planned);
  report.set("least_output_bytes", bill.bytes.least).set("most_output_bytes", bill.bytes.most);
  report.set("disk_bytes", bill.disk_bytes);
  report.set("peak_bytes", peak_bytes(bill)).set("seconds", bill.price.seconds);
  report.set("memory_ceiling", bill.ceiling ? Json(bill.ceiling->bytes) : Json())
      .set("least_ceiling", bill.least_ceiling);
  Json phases = Json::array();
  for (const PhasePrice& phase : bill.price.phases) {
    Json row = Json::object();
    phases.push(row.set("what", phase.what).set("seconds", phase.seconds).set("bytes", phase.bytes));
  }
  report.set("phases", std::move(phases)).set("multiply_adds", multiply_adds_json(bill));
  report.set("latency", latency_json(bill.latency)).set("tensors", tensors_json(bill.tensors));
  add_decisions(report, facts);
  Json remarks = Json::array();
  for (const std::string& remark : bill.remarks) remarks.push(remark);
  return report.set("remarks", std::move(remarks));
}

}  // namespace

std::uint64_t peak_bytes(const Bill& bill) {
  return bill.ceiling ? std::min(bill.ceiling->bytes, bill.price.peak_bytes) : bill.price.peak_bytes;
}

Bill plan_job(const JobRequest& request, Journal& journal, const Headers& headers, std::int64_t samples) {
  JobSetup setup = set_up_job(request);
  const Graph original = read_headers(request.model, headers);
  const Target target = setup.backend->target();
  warn_of_domains(original, target, journal);
  const std::shared_ptr<const Dataset> calib = open_if_named(original, setup.calib);
  const std::shared_ptr<const Dataset> eval = open_if_named(original, setup.eval);
  const bool calibrated = calib || std::any_of(setup.steps.begin(), setup.steps.end(),
                                               [](const BoundStep& step) { return step.needs_data(); });
  check_stop(request.stop);

  Threads threads(request.threads, &best_integer_kernels());
  Bill bill;
  bill.ceiling = ceiling_asked(request);
  bill.least_ceiling = least_ceiling(original, threads.count());
  if (bill.ceiling) check_ceiling(bill.ceiling->bytes, original, threads.count());
  Calibration calibration(calib, threads, journal);
  Forecast forecast;
  Graph decided = original;
  fit_versions(decided, target);
  plan_steps(decided, setup.steps, setup.recipe, target, calibration, journal, threads, {request.seed, request.stop},
             forecast);
  Graph lowered = lower(decided, *setup.emitter, target, journal);
  sign(lowered, some_provenance(calib.get(), calibrated));

  bill.output = setup.output;
  bill.input_bytes = model_bytes(request.model, original);
  bill.bytes = interval(written_bytes(lowered, setup.output), forecast);
  bill.disk_bytes = bill.bytes.most;
  const Rates rates = known_rates();
  bill.price = price_job({original, decided, lowered, forecast, calib.get(), eval.get(), calibrated ? samples : 0,
                          bill.bytes.planned, setup.steps.size(), threads.count(), rates});
  bill.latency = tell_latency(original, decided, calib ? calib.get() : eval.get(), target, journal);
  if (const auto bound = bound_to_one_sample(decided, calib ? calib.get() : eval.get())) {
    bill.multiply_adds = multiply_adds_by_precision(*bound, target);
  }
  bill.tensors = bill_tensors(decided, lowered, forecast, decider(setup), journal.facts());
  for (const ForecastDoubt& doubt : forecast.doubts) {
    bill.remarks.push_back(std::string(doubt.pass) + ": " + doubt.why);
  }
  if (calibrated && !calib) {
    bill.remarks.emplace_back(
        "the recipe measures on calibration data: name them with --calib, or nothing is quantized");
  }
  if (peak_bytes(bill) < bill.price.peak_bytes) {
    bill.remarks.push_back("the ceiling of " + bytes_text(bill.ceiling->bytes) + " (" + bill.ceiling->source +
                           ") holds memory below " + bytes_text(bill.price.peak_bytes) +
                           ": the rest lies in files beside the output, and the time depends on that disk");
  }
  if (rates.source.empty()) {
    bill.remarks.emplace_back("time by built-in rates; `qtool doctor --calibrate` measures those of this machine");
  }
  bill.report = report_of(request, setup.recipe, bill, journal.facts());
  return bill;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/job.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "backends/cpu/cpu.h"
#include "backends/verify/verify.h"
#include "calib/data.h"
#include "calib/executor.h"
#include "cli/data_options.h"
#include "cli/gate.h"
#include "cli/job_parts.h"
#include "cli/layer_inputs.h"
#include "cli/locking.h"
#include "cli/manifest.h"
#include "cli/memory.h"
#include "cli/ratchet.h"
#include "cli/report.h"
#include "cli/resume.h"
#include "cli/speed.h"
#include "cli/staging.h"
#include "cli/weights.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/memory.h"
#include "formats/file/headers.h"
#include "formats/file/reader.h"
#include "formats/ir/merkle.h"
#include "formats/ir/verify.h"
#include "passes/pipeline.h"
#include "recipes/reader/recipe.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

/// The first batches of a data set, about as many as hold `samples` of them: enough to rank layers, or to see that
/// outputs are finite.
class Head final : public Dataset {
 public:
  Head(std::shared_ptr<const Dataset> all, std::int64_t samples)
      : all_(std::move(all)),
        batches_(std::clamp<std::int64_t>(samples * all_->batches() / all_->samples(), 1, all_->batches())) {}
  std::int64_t batches() const override { return batches_; }
  std::int64_t samples() const override {
    return all_->samples() * batches_ / std::max<std::int64_t>(1, all_->batches());
  }
  std::int64_t samples_in(std::int64_t i) const override { return all_->samples_in(i); }
  Feeds feeds(std::int64_t i) const override { return all_->feeds(i); }
  Tensor labels(std::int64_t i) const override { return all_->labels(i); }
  const std::map<ValueId, ValueId>& state() const override { return all_->state(); }
  bool restarts(std::int64_t i) const override { return all_->restarts(i); }
  std::string digest(Threads& threads) const override { return all_->digest(threads); }
  bool synthetic() const override { return all_->synthetic(); }

 private:
  std::shared_ptr<const Dataset> all_;
  std::int64_t batches_;
};

/// Data bound to the model; null when none are named.
std::shared_ptr<const Dataset> open_if_named(const Graph& graph, const DataOptions& options) {
  return has_data(options) ? std::shared_ptr<const Dataset>(open_dataset(graph, options)) : nullptr;
}

/// What a gate asks of the data, before any work: labels where it counts them, and samples that were not calibrated on.
void check_evaluation(const Gate& gate, const Dataset* calib, const Dataset* eval, Threads& threads, Journal& journal) {
  if (gate.needs_labels() && eval->labels(0).empty()) {
    throw Error(Code::calibration,
                gate.place.text() + ": the gate's " + (gate.top1_drop ? "top1_drop" : "perplexity_ratio") +
                    " needs labels, and the evaluation data have none",
                "name the array of labels with `labels:` in the recipe's `eval:`");
  }
  if (!calib || !eval || calib->synthetic() || eval->synthetic()) return;
  const std::vector<Digest> fitted = calib->sample_digests(threads), judged = eval->sample_digests(threads);
  const std::set<Digest> known(fitted.begin(), fitted.end());
  const auto both = std::count_if(judged.begin(), judged.end(), [&](const Digest& d) { return known.contains(d); });
  if (both == 0) return;
  const std::string what =
      std::to_string(both) + " of the " + std::to_string(judged.size()) + " evaluation samples are calibration samples";
  if (gate.needs_data()) {
    throw Error(Code::calibration, gate.place.text() + ": the gate is measured on held-out data, but " + what,
                "leave those samples out of one of the two");
  }
  journal.warn("quantize", what + ": the model was fitted to what it is judged by");
}

/// The error of every layer: the two readings of the graph as the passes left it, where equal names mean equal things
/// (in the written file a product's output may already have passed a folded normalization or Relu).
LayerErrors rank_layers(const Graph& graph, std::shared_ptr<const Dataset> all, const Graph& original, Threads& threads,
                        const std::stop_token& stop, Journal& journal) {
  constexpr std::int64_t most_samples = 2;
  const Head data(std::move(all), most_samples);
  return compare(graph, graph, Reading::quantized, data, original, threads, true,
                 [&](std::int64_t done, std::int64_t total) {
                   check_stop(stop);
                   journal.progress({"rank layers", done, total});
                 })
      .worst_layers;
}

/// What the written model is judged on. Held-out data count whole; the sanity floor on calibration data is met or
/// missed on a few samples.
Head judged_data(const std::shared_ptr<const Dataset>& calib, const std::shared_ptr<const Dataset>& eval) {
  constexpr std::int64_t sanity_samples = 4;
  return {eval ? eval : calib, eval ? eval->samples() : sanity_samples};
}

/// The float model's outputs on such data.
OutputsKept outputs_kept(Kept& kept, const std::string& model_sha256, const Dataset& data, Threads& threads) {
  Json about = Json::object();
  about.set("value", "").set("what", "outputs of the float model").set("value_sha256", model_sha256);
  about.set("batches", data.batches());
  const Json origin = origin_json(data.digest(threads));
  for (const auto& [name, value] : origin.as_object()) about.set(name, value);
  return {&kept, std::move(about)};
}

Comparison compare_written(const Graph& original, const fs::path& file, const std::string& model_sha256,
                           const Dataset& data, Threads& threads, const std::stop_token& stop, Journal& journal,
                           Resumable& resumable) {
  const Graph written = read_onnx(file);
  const Digest key = Hasher().digest(resumable.job()).digest(fingerprint(written, false)).finish();
  return compare(original, written, Reading::reference, data, original, threads, false,
                 [&](std::int64_t done, std::int64_t total) {
                   check_stop(stop);
                   journal.progress({"compare", done, total});
                 },
                 {&resumable.kept(), key, outputs_kept(resumable.kept(), model_sha256, data, threads)});
}

double integer_share(const Latency& latency) {
  return latency.multiply_adds > 0 ? latency.on_codes / latency.multiply_adds : 0;
}

bool nothing_quantized(const Journal& journal) {
  const auto& facts = journal.facts();
  return std::none_of(facts.begin(), facts.end(), [](const Json& f) { return *f.find("kind") == Json("emit"); });
}

void add_remarks(JobResult& result, const JobSetup& plan, const Dataset* calib, Journal& journal) {
  if (nothing_quantized(journal)) {
    journal.warn("quantize", "nothing in this model was quantized by this recipe");
    result.remarks.emplace_back("nothing was quantized");
  }
  if (!result.comparison) {
    result.remarks.emplace_back("no data: the outputs were not compared; --eval measures them on held-out data");
  } else if (!result.compared_on_eval) {
    result.remarks.emplace_back(
        "measured on the calibration data, which the model was fitted to; give held-out data with --eval");
  }
  if (!plan.recipe.gate.any()) {
    result.remarks.emplace_back(result.comparison ? "no gate: only the sanity floor was checked (finite, not constant)"
                                                  : "no gate");
  }
  if (calib && calib->synthetic()) {
    result.remarks.emplace_back("calibrated on random data: ranges say nothing about real inputs");
  }
}

/// Codes that are compared with the model before a file is published: a few hundredths of a second.
constexpr std::int64_t most_codes = std::int64_t{1} << 23;

}  // namespace

const BackendDef& backend_named(const std::string& name) {
  std::vector<std::string> names;
  std::string all;
  for (const BackendDef* def : backends()) {
    if (def->name == name) return *def;
    names.emplace_back(def->name);
    all += (all.empty() ? "" : ", ") + names.back();
  }
  if (name.empty())
    throw Error(Code::usage, "the recipe names no target", "add `target:` or --target; targets: " + all);
  const std::string near = nearest(name, names);
  throw Error(Code::usage, "unknown target \"" + name + "\"" + (near.empty() ? "" : "; did you mean \"" + near + "\"?"),
              "targets: " + all);
}

JobResult run_job(const JobRequest& request, Journal& journal) {
  JobSetup plan = set_up_job(request);
  require_data(request, plan);
  check_output(request.model, plan.output, request.no_clobber);
  const std::optional<Lock> locked = request.locked.empty() ? std::nullopt : std::optional(read_lock(request.locked));
  Staging staging(plan.output);
  const std::optional<MemoryCeiling> ceiling = ceiling_of(request, staging.folder(), journal);

  Threads threads(request.threads, &best_integer_kernels(), request.stop);
  if (ceiling) check_ceiling(ceiling->bytes(), read_headers(request.model), threads.count());
  journal.progress({"read", 0, 0});
  const Graph original = read_model(request.model);
  const Target target = plan.backend->target();
  std::string model_sha256;
  check_weights(original, target, threads, [&] { model_sha256 = model_digest(request.model, original, request.stop); });
  warn_of_domains(original, target, journal);
  const std::shared_ptr<const Dataset> calib = open_if_named(original, plan.calib);
  const std::shared_ptr<const Dataset> eval = open_if_named(original, plan.eval);
  if (calib || eval) Executor(original, Reading::reference, threads);  // refuses unknown operators now, not later
  check_evaluation(plan.recipe.gate, calib.get(), eval.get(), threads, journal);
  if (request.rehearsal) {
    plan.recipe.gate = {};
    keep_what_selects(plan, original);
  }
  Provenance from{model_sha256,
                  recipe_digest(request, plan.recipe),
                  calib.get(),
                  eval.get(),
                  calib ? calib->digest(threads) : "",
                  eval ? eval->digest(threads) : "",
                  ""};
  const std::string other_data = plan.ratchet ? plan.ratchet->check_data(from.evaluation_sha256) : "";
  check_stop(request.stop);
  Resumable resumable(request, plan.output, from, journal);
  const Keeping keeping{&resumable.kept(), origin_json(from.calibration_sha256)};

  Graph graph = original;
  fit_versions(graph, target);
  Calibration calibration(calib, threads, journal, keeping);
  run_steps(graph, plan.steps, plan.recipe, target, calibration, journal, threads,
            {request.seed, request.stop, keeping, resumable.job()});
  check_stop(request.stop);

  journal.progress({"write", 0, 0});
  Graph lowered = lower(graph, *plan.emitter, target, journal);
  verify(lowered);
  LayerErrors layers;
  if (calib || eval) layers = rank_layers(graph, calib ? calib : eval, original, threads, request.stop, journal);
  const LayerInputs inputs =
      calib ? layer_inputs(original, products_with_codes(graph), *calib, threads, request.stop) : LayerInputs();
  Lock lock = lock_of(graph, journal.facts(), plan, request.seed, from, layers, inputs, threads);
  if (locked) lock = held_to(*locked, std::move(lock), request.locked);
  from.lock_sha256 = write_lock(lock, staging.lock());
  sign(lowered, from);
  write_onnx(lowered, staging.file(), {.sync = Sync::later, .threads = &threads});
  expect_verified({staging.file(), &target, request.model, &lock, most_codes, /*derive=*/false, &inputs}, threads,
                  journal);
  check_stop(request.stop);

  JobResult result;
  result.output = plan.output;
  result.latency = tell_latency(original, graph, calib ? calib.get() : eval.get(), target, journal);
  graph = lowered = Graph();  // codes and scales: what follows reads the file
  result.input_bytes = model_bytes(request.model, original);
  result.output_bytes = staging.bytes();
  if (eval || calib) {
    const Head data = judged_data(calib, eval);
    result.comparison =
        compare_written(original, staging.file(), from.model_sha256, data, threads, request.stop, journal, resumable);
    result.comparison->worst_layers = std::move(layers);
    result.compared_on_eval = eval != nullptr;
    check_sanity(*result.comparison);
  }
  const double ratio = static_cast<double>(result.output_bytes) / static_cast<double>(result.input_bytes);
  const std::vector<GateLimit> limits = judge(plan.recipe.gate, result.comparison ? &*result.comparison : nullptr,
                                              {ratio, integer_share(result.latency)});
  const std::vector<GateLimit> last =
      plan.ratchet ? plan.ratchet->judge(*result.comparison, result.output_bytes) : std::vector<GateLimit>();
  add_remarks(result, plan, calib.get(), journal);
  if (!other_data.empty()) result.remarks.push_back(other_data);
  result.report = job_report(request, plan.recipe, result, limits, last, journal.facts());
  if (eval) result.report.set("evaluation_sha256", from.evaluation_sha256);
  try {
    hold_to(plan.recipe.gate, limits);
    if (plan.ratchet) plan.ratchet->hold(last);
  } catch (const Error& e) {
    throw GateMissed(e, std::move(result));
  }
  resumable.tell();
  check_stop(request.stop);
  const Json manifest = manifest_of(request, plan.recipe, target, result, from, lock, staging.file());
  OutputFile file(staging.manifest());
  file.write(manifest.dump(2) + "\n");
  file.publish(Sync::later);
  staging.publish(request.no_clobber);
  return result;
}

std::vector<CacheAnswer> ask_cache(const JobRequest& request, Journal& journal) {
  JobSetup plan = set_up_job(request);
  const Graph original = read_model(request.model);
  Graph graph = original;
  const Target target = plan.backend->target();
  Threads threads(request.threads, &best_integer_kernels(), request.stop);
  const std::shared_ptr<const Dataset> calib = open_if_named(original, plan.calib);
  const std::shared_ptr<const Dataset> eval = open_if_named(original, plan.eval);
  fit_versions(graph, target);
  std::vector<CacheAnswer> answers;
  Kept kept(request.cache, {}, journal);
  kept.rehearse([&](std::string_view kind, const Json& about, bool found) {
    answers.push_back({std::string(kind), about, found});
  });
  const Keeping keeping{&kept, origin_json(calib ? calib->digest(threads) : "")};
  Calibration calibration(calib, threads, journal, keeping);
  run_steps(graph, plan.steps, plan.recipe, target, calibration, journal, threads,
            {request.seed, request.stop, keeping, {}});
  if (calib || eval) {
    const Head data = judged_data(calib, eval);
    const OutputsKept outputs = outputs_kept(kept, model_digest(request.model, original, request.stop), data, threads);
    kept.find(OutputsKept::kind, outputs.key(), outputs.about,
              [](ByteReader& in, const Store::Entry&) { in.bytes(in.left()); });
  }
  return answers;
}

Recipe check_recipe(const std::string& name_or_path, const std::vector<std::string>& set) {
  return set_up_job(name_or_path, set, "").recipe;
}

}  // namespace qtool

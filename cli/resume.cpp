// SPDX-License-Identifier: Apache-2.0
#include "cli/resume.h"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "backends/cpu/cpu.h"
#include "calib/linalg.h"
#include "formats/base/build_id.h"
#include "formats/base/error.h"
#include "formats/base/integer_product.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

constexpr const char* job_kind = "job";
const Digest job_key = Hasher().text(job_kind).finish();

/// Members of a job's identity, and what is said when they differ.
constexpr std::array<std::pair<const char*, const char*>, 7> members{
    {{"model", "another model"},
     {"recipe", "another recipe, target or --set"},
     {"calibration", "other calibration data"},
     {"evaluation", "other evaluation data"},
     {"seed", "another --seed"},
     {"arithmetic", "another processor or other libraries"},
     {"build", "another build of qtool"}}};

std::string labels_digest(const Dataset* data) {
  Hasher hasher;
  for (std::int64_t i = 0; data && i < data->batches(); ++i) {
    const Tensor labels = data->labels(i);
    if (labels.empty()) break;
    hasher.number(labels.dtype()).digest(labels.digest());
  }
  return hex(hasher.finish());
}

Json identity(const JobRequest& request, const Provenance& from) {
  Json json = Json::object();
  json.set("model", from.model_sha256).set("recipe", from.recipe_sha256);
  json.set("calibration", from.calibration_sha256)
      .set("evaluation", from.evaluation_sha256 + " " + labels_digest(from.evaluation));
  json.set("seed", std::to_string(request.seed)).set("arithmetic", arithmetic_text());
  return json.set("build", build_id());
}

/// "another recipe and other calibration data".
std::string difference(const Json& left, const Json& now) {
  std::vector<std::string> all;
  for (const auto& [name, what] : members) {
    const Json *a = left.find(name), *b = now.find(name);
    if (!a || *a != *b) all.emplace_back(what);
  }
  std::string text;
  for (std::size_t i = 0; i < all.size(); ++i) text += (i == 0 ? "" : i + 1 == all.size() ? " and " : ", ") + all[i];
  return text;
}

/// The entries of a store, the folder too when nothing else is in it.
void remove_store(const fs::path& folder) {
  constexpr std::size_t digits = 64;
  std::error_code failed;
  std::vector<fs::path> ours;
  for (auto at = fs::directory_iterator(folder, failed); !failed && at != fs::directory_iterator();
       at.increment(failed)) {
    const std::string name = at->path().filename().string();
    const bool named = name.find_first_not_of("0123456789abcdef") == digits && name[digits] == '.';
    if (named && at->is_regular_file(failed)) ours.push_back(at->path());
  }
  for (const fs::path& file : ours) fs::remove(file, failed);
  fs::remove(folder, failed);
}

fs::path folder_for(const fs::path& output) { return fs::path(output).concat(".resume"); }

}  // namespace

std::string arithmetic_text() {
  const LinalgInfo& blas = linalg_info();
  return blas.widest + ", " + blas.library + " " + blas.core + ", " + std::string(best_integer_kernels().name());
}

Json origin_json(const std::string& calibration_sha256) {
  Json json = Json::object();
  return json.set("data", calibration_sha256).set("arithmetic", arithmetic_text()).set("build", build_id());
}

Resumable::Resumable(const JobRequest& request, const fs::path& output, const Provenance& from, Journal& journal)
    : folder_(folder_for(output)),
      journal_(journal),
      stop_(request.stop),
      exceptions_(std::uncaught_exceptions()),
      kept_(request.cache, folder_, journal) {
  const Json now = identity(request, from);
  job_ = Hasher().text(now.dump()).finish();
  if (request.restart) remove_store(folder_);
  if (const auto left = Store(folder_).load(job_kind, job_key)) {
    const std::string other = difference(left->about, now);
    if (!other.empty()) {
      throw Error(Code::usage, folder_.string() + " was left by an interrupted run with " + other,
                  "run the command that was interrupted, or add --restart to drop what it had done");
    }
    Json fact = Json::object();
    journal.fact("kept", std::move(fact.set("text", "going on where an interrupted run stopped: " + folder_.string())));
  }
  kept_.keep_latest(job_kind, job_key, now, [](ByteWriter&, const Store&) {});
}

Resumable::~Resumable() {
  try {
    if (!stop_.stop_requested() || std::uncaught_exceptions() == exceptions_) {
      remove_store(folder_);
      return;
    }
    kept_.flush();
    Json fact = Json::object();
    fact.set("text", "what was computed is kept in " + folder_.string() + ", where the same command goes on");
    journal_.fact("kept", std::move(fact));
  } catch (...) {  // a destructor; what is not kept is computed again
  }
}

void Resumable::tell() const {
  for (const auto& [kind, count] : kept_.counts()) {
    Json fact = Json::object();
    fact.set("what", kind).set("found", count.found).set("computed", count.computed);
    if (kept_.cache()) {
      fact.set("text", "cache: " + kind + ": " + std::to_string(count.found) + " found, " +
                           std::to_string(count.computed) + " computed");
    }
    journal_.fact("kept", std::move(fact));
  }
}

}  // namespace qtool

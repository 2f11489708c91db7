// SPDX-License-Identifier: Apache-2.0
#include "cli/manifest.h"

#include <algorithm>
#include <map>

#include "backends/cpu/cpu.h"
#include "calib/linalg.h"
#include "cli/weights.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/processor.h"
#include "formats/base/stop.h"
#include "formats/base/threads.h"
#include "formats/file/reader.h"
#include "formats/schema.h"

namespace qtool {
namespace {

namespace fs = std::filesystem;

#if defined(__clang__)
constexpr const char* compiler = "clang " __clang_version__;
#else
constexpr const char* compiler = "g++ " __VERSION__;
#endif

void hash_constant(const Value& value, Hasher& hasher) {
  hasher.text(value.name);
  value.data.for_each_piece([&](std::span<const std::byte> piece) { hasher.bytes(piece); });
}

void hash_constants(const Graph& graph, Hasher& hasher) {
  for (const ValueId v : graph.values()) {
    if (graph.is_constant(v)) hash_constant(graph[v], hasher);
  }
  for (const NodeId n : graph.nodes()) {
    for_each_body(graph[n], [&](const Graph& body) { hash_constants(body, hasher); });
  }
}

void hash_file(const fs::path& file, Hasher& hasher, const std::stop_token& stop) {
  const MappedFile mapped(file);
  Buffer::view(mapped.bytes(), mapped)->for_each_piece([&](std::span<const std::byte> piece) {
    check_stop(stop);
    hasher.bytes(piece);
  });
}

Json data_json(const Dataset* data, const std::string& sha256) {
  if (!data) return {};
  Json json = Json::object();
  json.set("sha256", sha256).set("samples", data->samples()).set("runs", data->batches());
  return json.set("synthetic", data->synthetic());
}

/// The error of every weight that codes stand for, and of what its node puts out.
Json errors_json(const Lock& lock) {
  std::map<std::string, double> outputs;
  for (const LockedLayer& layer : lock.layers) outputs.emplace(layer.node, layer.sqnr_db);
  Json list = Json::array();
  for (const LockedUse& use : lock.uses) {
    if (use.codes_sha256.empty()) continue;
    const auto output = outputs.find(use.node);
    Json row = Json::object();
    row.set("tensor", use.tensor).set("node", use.node).set("sqnr_db", use.sqnr_db ? Json(*use.sqnr_db) : Json());
    list.push(std::move(row.set("output_sqnr_db", output == outputs.end() ? Json() : Json(output->second))));
  }
  return list;
}

/// `--set data.path=...` names a place, like --calib.
bool names_a_place(const std::string& assignment) {
  return assignment.starts_with("data.path=") || assignment.starts_with("eval.path=");
}

/// The model and its data files.
Json files_json(const fs::path& staged, const std::stop_token& stop) {
  std::map<std::string, fs::path> files;
  for (const auto& entry : fs::directory_iterator(staged.parent_path())) {
    if (entry.path() != staged && !is_data_file_of(staged, entry.path())) continue;
    files[entry.path().filename().string()] = entry.path();
  }
  Json list = Json::array();
  for (const auto& [name, path] : files) {
    Json file = Json::object();
    file.set("name", name).set("bytes", static_cast<std::uint64_t>(fs::file_size(path)));
    list.push(file.set("sha256", file_digest(path, stop)));
  }
  return list;
}

/// The report's list of what the steps did, without the time that they took.
Json without_seconds(const Json& steps) {
  Json list = Json::array();
  for (const Json& step : steps.as_array()) {
    Json rest = Json::object();
    for (const auto& [name, value] : step.as_object()) {
      if (name != "seconds") rest.set(name, value);
    }
    list.push(std::move(rest));
  }
  return list;
}

}  // namespace

Json machine_json() {
  const LinalgInfo& blas = linalg_info();
  Json json = Json::object();
  json.set("compiler", compiler).set("instruction_set", portable_floats() ? "any" : blas.widest);
  json.set("float_products", blas.library + " " + blas.core).set("chosen_by", blas.chosen_by);
  return json.set("integer_products", portable_floats() ? "any" : best_integer_kernels().name());
}

std::string file_digest(const fs::path& file, const std::stop_token& stop) {
  Hasher hasher;
  hash_file(file, hasher, stop);
  return hex(hasher.finish());
}

std::string recipe_digest(const JobRequest& request, const Recipe& recipe) {
  Hasher hasher;
  hasher.text(recipe.source);
  for (const std::string& assignment : request.set) {
    if (!names_a_place(assignment)) hasher.text(assignment);
  }
  return hex(hasher.text(recipe.target).finish());
}

std::string model_digest(const fs::path& file, const Graph& graph, const std::stop_token& stop) {
  Hasher hasher;
  hash_file(file, hasher, stop);
  if (model_bytes(file, graph) > fs::file_size(file)) hash_constants(graph, hasher);
  return hex(hasher.finish());
}

Json manifest_of(const JobRequest& request, const Recipe& recipe, const Target& target, const JobResult& result,
                 const Provenance& from, const Lock& lock, const fs::path& staged) {
  Json model = Json::object(), by = Json::object();
  model.set("name", request.model.filename().string()).set("bytes", result.input_bytes);
  model.set("sha256", from.model_sha256);
  by.set("name", recipe.name).set("sha256", from.recipe_sha256);
  Json changes = Json::array();
  for (const std::string& assignment : request.set) {
    if (!names_a_place(assignment)) changes.push(assignment);
  }
  by.set("set", std::move(changes)).set("seed", request.seed);
  by.set("target", target.name).set("runtime", target.runtime + " " + target.version);
  by.set("target_instruction_set", target.instruction_set);
  Json manifest = Json::object();
  manifest.set("schema", schema::manifest).set("qtool", QTOOL_VERSION).set("machine", machine_json());
  manifest.set("model", std::move(model)).set("recipe", std::move(by));
  manifest.set("calibration", data_json(from.calibration, from.calibration_sha256));
  manifest.set("evaluation", data_json(from.evaluation, from.evaluation_sha256));
  manifest.set("lock", Json::object().set("sha256", from.lock_sha256)).set("files", files_json(staged, request.stop));
  for (const char* part : {"compared_on", "comparison", "gate", "changes", "layers", "emitted", "skips", "slower",
                           "warnings", "remarks"}) {
    manifest.set(part, *result.report.find(part));
  }
  manifest.set("tensors", errors_json(lock));
  return manifest.set("steps", without_seconds(*result.report.find("steps")));
}

}  // namespace qtool

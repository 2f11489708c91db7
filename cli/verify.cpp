// SPDX-License-Identifier: Apache-2.0
// verify: what a runtime relies on in a quantized file, checked by an independent reader, and compared with the float
// model that it was made from.
#include "backends/verify/verify.h"

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/cpu.h"
#include "calib/data.h"
#include "cli/command.h"
#include "cli/data_options.h"
#include "cli/job.h"
#include "cli/job_parts.h"
#include "cli/layer_inputs.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"
#include "formats/lock.h"

namespace qtool {
namespace {

constexpr const char* schema = "qtool.verify/1";

/// What the manifest beside the file tells of the recipe; empty without one.
Json recipe_in_manifest(const std::filesystem::path& file) {
  std::filesystem::path manifest = file;
  manifest += ".manifest.json";
  if (!std::filesystem::exists(manifest)) return Json::object();
  const Json json = Json::parse(read_text(manifest), manifest.string());
  const Json* recipe = json.find("recipe");
  return recipe != nullptr && recipe->is_object() ? *recipe : Json::object();
}

std::string text_in(const Json& recipe, const char* name) {
  const Json* member = recipe.find(name);
  return member != nullptr && member->is_string() ? member->as_string() : std::string();
}

/// The target that the manifest tells; without one, the first of all.
std::string target_of(const std::filesystem::path& file) {
  const std::string target = text_in(recipe_in_manifest(file), "target");
  return target.empty() ? std::string(backends().front()->name) : target;
}

/// How the run read its calibration data, now at `path`.
DataOptions calibration_of(const std::filesystem::path& file, const std::string& recipe, const std::string& path) {
  const Json made_by = recipe_in_manifest(file);
  const std::string name = recipe.empty() ? text_in(made_by, "name") : recipe;
  if (name.empty()) return data_from(path);
  std::vector<std::string> set;
  if (const Json* changed = made_by.find("set"); changed != nullptr && changed->is_array()) {
    for (const Json& assignment : changed->as_array()) {
      if (assignment.is_string()) set.push_back(assignment.as_string());
    }
  }
  DataOptions options = set_up_job(name, set, text_in(made_by, "target")).calib;
  options.path = path;
  return options;
}

Json defects_json(const std::vector<Defect>& defects) {
  Json list = Json::array();
  for (const Defect& d : defects) {
    list.push(Json::object().set("where", d.where).set("what", d.what).set("what_to_do", d.advice));
  }
  return list;
}

Json json_of(const Verification& v) {
  Json compared = Json::object(), open = Json::array();
  compared.set("weights", v.weights).set("biases", v.biases).set("floats", v.floats).set("elements", v.elements);
  compared.set("hashes", v.hashes).set("errors", v.errors).set("outputs", v.outputs);
  for (const NotCompared& n : v.not_compared) {
    open.push(Json::object().set("node", n.node).set("tensor", n.tensor).set("why", n.why));
  }
  Json json = Json::object();
  json.set("nodes", v.nodes).set("codes", v.codes).set("compared", std::move(compared));
  json.set("not_compared", std::move(open)).set("defects", v.found).set("list", defects_json(v.defects));
  return json.set("inherited", defects_json(v.inherited));
}

std::string lines_of(const std::vector<Defect>& defects) {
  std::string text;
  for (const Defect& d : defects) text += "- " + wrapped(d.text() + "; " + d.advice, 2) + "\n";
  return text;
}

std::string number(std::int64_t n) { return grouped(static_cast<std::uint64_t>(n)); }

class Verify final : public Command {
  std::string file_, against_, lock_, target_, calib_, recipe_;

 public:
  void arguments(Arguments& a) override {
    a.positional("FILE", file_, "ONNX file to check");
    a.option("--against", "MODEL", against_, "float model that it was made from: every code must be the nearest");
    a.option("--lock", "LOCK", lock_,
             "lock that was written with it: folds to replay, hashes and errors to derive again");
    a.option("--calib", "DATA", calib_,
             "calibration data of the run: the errors of what layers put out are derived again, too");
    a.option("-r,--recipe", "RECIPE", recipe_, "how --calib is read (default: the manifest's)");
    a.option("--target", "TARGET", target_, "runtime that is to load it (default: the manifest's, else ort-cpu)");
  }

  void run(Console& console) override {
    const Target target = backend_named(target_.empty() ? target_of(file_) : target_).target();
    if (!lock_.empty() && against_.empty()) {
      throw Error(Code::usage, "--lock tells how the file was made from a model, and there is none",
                  "name the model with --against");
    }
    const std::optional<Lock> lock = lock_.empty() ? std::nullopt : std::optional(read_lock(lock_));
    VerifyRequest request;
    request.file = file_;
    request.target = &target;
    request.against = against_;
    request.lock = lock ? &*lock : nullptr;
    Threads threads(console.threads(), &best_integer_kernels(), console.stop());
    if (!calib_.empty() && lock_.empty()) {
      throw Error(Code::usage, "--calib is for the errors of outputs that a lock tells, and there is none",
                  "name the lock with --lock");
    }
    const LayerInputs inputs = calib_.empty() ? LayerInputs() : inputs_for(*lock, threads, console.stop());
    if (!calib_.empty()) request.inputs = &inputs;
    const Verification verdict = verify_file(request, threads);
    console.print(describe(verdict, target));
    Json report = Json::object();
    report.set("schema", schema).set("command", "verify").set("file", file_);
    report.set("against", against_.empty() ? Json() : Json(against_));
    report.set("lock", lock_.empty() ? Json() : Json(lock_)).set("target", target.name);
    const Json facts = json_of(verdict);
    for (const auto& [name, value] : facts.as_object()) report.set(name, value);
    console.result(report);
    if (verdict.clean()) return;
    throw Error(Code::verification,
                file_ + " has " + (verdict.found == 1 ? "a defect" : number(verdict.found) + " defects"),
                "do not ship the file; if qtool wrote it, please report it with the model and the recipe");
  }

 private:
  LayerInputs inputs_for(const Lock& lock, Threads& threads, const std::stop_token& stop) const {
    const Graph model = read_model(against_);
    const std::unique_ptr<const Dataset> data = open_dataset(model, calibration_of(file_, recipe_, calib_));
    if (data->digest(threads) != lock.outputs_sha256) {
      throw Error(
          Code::input,
          lock.outputs_sha256.empty() ? lock_ + " tells no errors of outputs"
                                      : calib_ + ": not the data that the errors in " + lock_ + " are of",
          "name the calibration data that the model was made with, and a recipe that is not shipped with --recipe");
    }
    std::set<std::string, std::less<>> nodes;
    for (const LockedUse& use : lock.uses) {
      if (use.output_db) nodes.insert(use.node);
    }
    return layer_inputs(model, nodes, *data, threads, stop);
  }

  std::string describe(const Verification& v, const Target& target) const {
    Table table({"checked", "number"});
    table.row({"nodes", number(v.nodes)});
    table.row({"codes", number(v.codes)});
    if (!against_.empty()) {
      table.row({"weights against the model", number(v.weights)});
      table.row({"biases against the model", number(v.biases)});
      table.row({"float tensors against the model", number(v.floats)});
      table.row({"their elements", number(v.elements)});
      if (!lock_.empty()) table.row({"hashes of codes against the lock", number(v.hashes)});
      if (!calib_.empty()) table.row({"errors of outputs against the lock", number(v.outputs)});
      table.row({"not compared", number(static_cast<std::int64_t>(v.not_compared.size()))});
    }
    std::string text = table.text();
    for (const NotCompared& n : v.not_compared) {
      text += "- " + wrapped("not compared: \"" + n.tensor + "\" of \"" + n.node + "\": " + n.why, 2) + "\n";
    }
    if (!v.inherited.empty()) text += "\nas in the model already:\n" + lines_of(v.inherited);
    const std::string whom = " for " + target.runtime + " " + target.version + "\n";
    if (v.clean()) return text + "\nno defects" + whom;
    text += "\n" + number(v.found) + (v.found == 1 ? " defect" : " defects") + whom + lines_of(v.defects);
    const auto listed = static_cast<std::int64_t>(v.defects.size());
    return text + (v.found > listed ? "and " + number(v.found - listed) + " more\n" : "");
  }
};

}  // namespace

constinit const CommandDef command::verify{
    "verify",
    "check a quantized file by an independent reader, and against the model that it was made from",
    "Finds what a runtime relies on and does not check: shapes and packing of codes, scales and zero points, biases "
    "on\n"
    "the scale of their product, sums beyond int32, versions, nodes that the target would leave in float. `quantize`\n"
    "runs the same checks before it publishes. Exits with 8 when there is a defect.",
    "qtool verify model.int8.onnx\nqtool verify model.int8.onnx --against model.onnx --json -",
    false,
    false,
    make_command<Verify>};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// rebuild: makes a published model again from what its manifest names, aside, and compares the bytes.
#include <filesystem>
#include <map>
#include <utility>

#include "backends/cpu/cpu.h"
#include "calib/data.h"
#include "cli/command.h"
#include "cli/data_options.h"
#include "cli/job.h"
#include "cli/job_parts.h"
#include "cli/locking.h"
#include "cli/manifest.h"
#include "cli/temporary_folder.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/processor.h"
#include "formats/file/reader.h"
#include "formats/schema.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

constexpr const char* manifest_ending = ".manifest.json";

/// A manifest, its members asked for by name.
class Manifest {
 public:
  /// `name`: the manifest or its model.
  explicit Manifest(const std::string& name) : file_(name) {
    if (!name.ends_with(manifest_ending)) file_ += manifest_ending;
    json_ = Json::parse(read_text(file_), file_.string());
    check_schema(json_, schema::manifest, file_.string(),
                 "quantize the model again: a manifest is written beside each");
    std::string model = file_.filename().string();
    model.resize(model.size() - std::string_view(manifest_ending).size());
    output_ = file_.parent_path() / model;
  }

  const Json& at(std::initializer_list<const char*> path) const {
    const Json* found = &json_;
    for (const char* name : path) {
      found = found ? found->find(name) : nullptr;
      if (!found) throw Error(Code::input, file_.string() + ": the manifest has no member \"" + name + "\"");
    }
    return *found;
  }
  std::string text(std::initializer_list<const char*> path) const { return at(path).as_string(); }
  /// Of data: empty when there were none.
  std::string data_sha256(const char* member) const { return at({member}).is_null() ? "" : text({member, "sha256"}); }
  /// Name to hash of the files that the model consists of.
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> all;
    for (const Json& file : at({"files"}).as_array()) {
      const Json *name = file.find("name"), *hash = file.find("sha256");
      if (!name || !hash) throw Error(Code::input, file_.string() + ": a file of the manifest has no name or no hash");
      all[name->as_string()] = hash->as_string();
    }
    return all;
  }
  const fs::path& file() const { return file_; }
  /// The model that it speaks of.
  const fs::path& output() const { return output_; }

 private:
  fs::path file_, output_;
  Json json_;
};

class Rebuild final : public Command {
  std::string check_, model_, recipe_, calib_, eval_;

 public:
  void arguments(Arguments& a) override {
    a.option("--check", "FILE", check_, "a model that quantize wrote, or its manifest").required = true;
    a.option("--model", "MODEL", model_, "what it was made of (default: the manifest's name for it, beside it)");
    a.option("-r,--recipe", "RECIPE", recipe_, "the recipe, where it is not a shipped one");
    a.option("--calib", "DATA", calib_, "the calibration data, where the recipe does not name them");
    a.option("--eval", "DATA", eval_, "the held-out data; without them figures are not measured again");
  }

  void begin() override {
    if (Manifest(check_).text({"machine", "chosen_by"}) == chosen_portable) use_portable_floats();
  }

  void run(Console& console) override {
    const Manifest manifest(check_);
    const JobRequest request = request_for(manifest, console);
    check_inputs(manifest, request);
    const TemporaryFolder aside("rebuild");
    JobRequest again = request;
    again.output = aside.path() / manifest.output().filename();
    run_job(again, console.journal());
    tell(console, manifest, Manifest(again.output.string()));
  }

 private:
  JobRequest request_for(const Manifest& manifest, const Console& console) const {
    JobRequest request;
    const fs::path named = manifest.text({"model", "name"});
    request.model = model_.empty() ? manifest.file().parent_path() / named.filename() : fs::path(model_);
    request.recipe = recipe_.empty() ? manifest.text({"recipe", "name"}) : recipe_;
    request.calib = calib_;
    request.eval = eval_;
    request.target = manifest.text({"recipe", "target"});
    for (const Json& assignment : manifest.at({"recipe", "set"}).as_array())
      request.set.push_back(assignment.as_string());
    request.threads = console.threads();
    request.seed = static_cast<std::uint64_t>(manifest.at({"recipe", "seed"}).as_integer());
    request.stop = console.stop();
    return request;
  }

  /// Error(different) that names every input that is not the one of the manifest.
  static void check_inputs(const Manifest& manifest, const JobRequest& request) {
    JobSetup setup = set_up_job(request);
    const Graph graph = read_model(request.model);
    Threads threads(request.threads, &best_integer_kernels());
    std::string others;
    const auto compare = [&](const std::string& what, const std::string& then, const std::string& now) {
      if (then == now) return;
      others += (others.empty() ? "" : ", ") + what +
                (now.empty()    ? " (none given)"
                 : then.empty() ? " (there were none)"
                                : "");
    };
    compare("the model", manifest.text({"model", "sha256"}), model_digest(request.model, graph));
    compare("the recipe", manifest.text({"recipe", "sha256"}), recipe_digest(request, setup.recipe));
    const auto digest = [&](const DataOptions& data) {
      return has_data(data) ? open_dataset(graph, data)->digest(threads) : std::string();
    };
    compare("the calibration data", manifest.data_sha256("calibration"), digest(setup.calib));
    if (has_data(setup.eval)) {
      compare("the evaluation data", manifest.data_sha256("evaluation"), digest(setup.eval));
    }
    if (others.empty()) return;
    throw Error(Code::different, manifest.file().string() + ": not what the manifest names: " + others,
                "give what the model was made of with --model, --recipe, --calib and --eval");
  }

  static Json row_of(const std::string& what, Json then, Json now) {
    Json row = Json::object();
    return row.set("what", what).set("then", std::move(then)).set("now", std::move(now));
  }

  /// What may change bytes and is not the same here.
  static Json other_facts(const Manifest& then, const Manifest& now) {
    Json rows = Json::array();
    if (then.text({"qtool"}) != now.text({"qtool"}))
      rows.push(row_of("qtool", then.text({"qtool"}), now.text({"qtool"})));
    for (const auto& [name, value] : now.at({"machine"}).as_object()) {
      const Json* old = then.at({"machine"}).find(name);
      if (!old || *old != value) rows.push(row_of(name, old ? *old : Json(), value));
    }
    return rows;
  }

  static Json other_files(const Manifest& then, const Manifest& now) {
    Json rows = Json::array();
    const auto before = then.files(), after = now.files();
    for (const auto& [name, hash] : before) {
      const auto found = after.find(name);
      if (found == after.end() || found->second != hash) {
        rows.push(row_of(name, hash, found == after.end() ? Json() : Json(found->second)));
      }
    }
    for (const auto& [name, hash] : after) {
      if (!before.contains(name)) rows.push(row_of(name, Json(), hash));
    }
    return rows;
  }

  /// Files beside the manifest that are no longer those that it speaks of.
  static Json changed_since(const Manifest& manifest) {
    Json names = Json::array();
    for (const auto& [name, hash] : manifest.files()) {
      const fs::path file = manifest.file().parent_path() / fs::path(name).filename();
      if (fs::exists(file) && file_digest(file) != hash) names.push(name);
    }
    return names;
  }

  static Json decisions(const Manifest& then, const Manifest& now) {
    Json list = Json::array();
    const fs::path lock = fs::path(then.output()).concat(".lock");
    if (!fs::exists(lock)) return list;
    for (const std::string& difference :
         lock_differences(read_lock(lock), read_lock(fs::path(now.output()).concat(".lock")))) {
      list.push(difference);
    }
    return list;
  }

  static std::string list_of(const Json& rows) {
    std::string text;
    for (const Json& row : rows.as_array()) {
      text += "  " + row.find("what")->as_string() + ": " + row.find("then")->dump() + " -> " +
              row.find("now")->dump() + "\n";
    }
    return text;
  }

  static void tell(Console& console, const Manifest& then, const Manifest& now) {
    const Json files = other_files(then, now), facts = other_facts(then, now), changed = changed_since(then);
    const bool equal = files.as_array().empty() && changed.as_array().empty();
    const Json decided = files.as_array().empty() ? Json::array() : decisions(then, now);
    std::string text;
    if (!files.as_array().empty()) text += "files that came out otherwise:\n" + list_of(files);
    for (const Json& name : changed.as_array())
      text += name.as_string() + " was changed after its manifest was written\n";
    for (const Json& difference : decided.as_array()) text += "decision: " + difference.as_string() + "\n";
    if (!facts.as_array().empty()) text += "what is not as it was then:\n" + list_of(facts);
    if (equal) text += "the same bytes as " + then.output().string() + "\n";
    console.print(text);
    Json report = Json::object();
    report.set("schema", schema::rebuild).set("equal", equal).set("files", files).set("changed", changed);
    console.result(report.set("decisions", decided).set("machine", facts));
    if (!equal) throw Error(Code::different, then.output().string() + " is not what its manifest makes");
  }
};

}  // namespace

constinit const CommandDef command::rebuild{
    "rebuild",
    "make a model again from what its manifest names, and compare the bytes",
    "The hashes of model, recipe and data are compared first. The model is made in a temporary folder; nothing is\n"
    "published. Exits with 9 when an input is another or the bytes differ, and tells what else is not as it was: "
    "version,\n"
    "compiler, instruction set, kernels.",
    "qtool rebuild --check model.int8.onnx --model model.onnx --calib samples.npz",
    true,
    false,
    make_command<Rebuild>};

}  // namespace qtool

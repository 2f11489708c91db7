// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "cli/job.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/store.h"
#include "recipes/reader/recipe.h"

namespace qtool {
namespace {

constexpr const char* schema = "qtool.cache/1";

std::string text_of(const Json& about, std::string_view name) {
  const Json* member = about.find(name);
  return !member ? "" : member->is_string() ? member->as_string() : member->dump();
}

/// What an answer depends on, and what is said when the cache has the same of another.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> causes{
    {{"data", "known of other data"},
     {"build", "known from another build of qtool"},
     {"arithmetic", "known from another processor or other libraries"},
     {"value_sha256", "the value, or something that it is computed from, is another"},
     {"decision", "known of another decision"},
     {"shape", "known of another shape"}}};

/// Why there is no such entry: what sets the nearest one apart, by the name of the value and what is known of it.
std::string why_missing(const CacheAnswer& asked, const std::vector<Store::Listed>& entries) {
  std::string best;
  std::size_t fewest = causes.size() + 1;
  bool named = false;
  for (const Store::Listed& entry : entries) {
    if (!entry.about || entry.kind != asked.kind) continue;
    if (text_of(*entry.about, "value") != text_of(asked.about, "value")) continue;
    named = true;
    if (text_of(*entry.about, "what") != text_of(asked.about, "what")) continue;
    std::string text;
    std::size_t differing = 0;
    for (const auto& [member, cause] : causes) {
      if (text_of(*entry.about, member) == text_of(asked.about, member)) continue;
      text += (differing++ == 0 ? "" : "; ") + std::string(cause);
    }
    if (differing >= fewest) continue;
    fewest = differing;
    best = text;
  }
  if (!best.empty()) return best;
  return named ? "other things are known of it" : "nothing is known of it";
}

class Cache final : public Command {
  std::string action_, folder_, model_, recipe_, calib_, eval_, target_;
  std::vector<std::string> set_;

 public:
  void arguments(Arguments& a) override {
    a.positional("ACTION", action_, "explain: what a cache holds, or what a run would find in it");
    a.positional("DIR", folder_, "folder that `quantize --cache-dir` was given");
    a.option("-m,--model", "MODEL", model_, "model of a run that is asked about");
    a.option("-r,--recipe", "RECIPE", recipe_, "its recipe");
    a.option("--calib", "DATA", calib_, "its calibration data");
    a.option("--eval", "DATA", eval_, "its held-out data");
    a.option("--target", "TARGET", target_, "its target (default: the recipe's)");
    a.option("--set", "STEP.KEY=VALUE", set_, "its changed knobs; may be repeated");
  }

  void run(Console& console) override {
    if (action_ != "explain") {
      throw Error(Code::usage, "`qtool cache " + action_ + "`: unknown action", "actions: explain");
    }
    if (model_.empty() != recipe_.empty()) {
      throw Error(Code::usage, "a run is asked about by --model and --recipe together",
                  "without both, everything that the cache holds is listed");
    }
    const std::vector<Store::Listed> entries = Store(folder_).list();
    model_.empty() ? list(entries, console) : ask(entries, console);
  }

 private:
  void list(const std::vector<Store::Listed>& entries, Console& console) const {
    Table table({"kind", "of", "what", "data", "bytes"});
    table.left(1).left(2).left(3);
    Json all = Json::array();
    std::uintmax_t bytes = 0;
    for (const Store::Listed& entry : entries) {
      Json row = Json::object();
      row.set("file", entry.file).set("bytes", std::uint64_t{entry.bytes}).set("whole", entry.about.has_value());
      row.set("kind", entry.kind).set("about", entry.about ? *entry.about : Json());
      all.push(std::move(row));
      bytes += entry.bytes;
      const std::string size = grouped(entry.bytes);
      if (!entry.about) {
        table.row({"?", entry.file, "no whole entry: ignored, and replaced when its turn comes", "", size});
        continue;
      }
      const Json& about = *entry.about;
      table.row(
          {entry.kind, text_of(about, "value"), text_of(about, "what"), text_of(about, "data").substr(0, 8), size});
    }
    console.print((entries.empty() ? "" : table.text()) + counted(entries.size(), "entry", "entries") + ", " +
                  bytes_text(bytes) + "\n");
    Json report = Json::object();
    report.set("schema", schema).set("folder", folder_).set("bytes", std::uint64_t{bytes});
    console.result(report.set("entries", std::move(all)));
  }

  void ask(const std::vector<Store::Listed>& entries, Console& console) const {
    JobRequest request;
    request.model = model_;
    request.recipe = recipe_;
    request.calib = calib_;
    request.eval = eval_;
    request.target = target_;
    request.set = set_;
    request.cache = folder_;
    request.threads = console.threads();
    request.stop = console.stop();
    const std::vector<CacheAnswer> answers = ask_cache(request, console.journal());
    Table table({"kind", "of", "what", "answer"});
    table.left(1).left(2).left(3);
    Json all = Json::array();
    std::size_t found = 0;
    for (const CacheAnswer& answer : answers) {
      const std::string why = answer.found ? "" : why_missing(answer, entries);
      found += answer.found ? 1 : 0;
      table.row({answer.kind, text_of(answer.about, "value"), text_of(answer.about, "what"),
                 answer.found ? "known" : "computed: " + why});
      Json row = Json::object();
      row.set("kind", answer.kind).set("found", answer.found).set("why", why).set("about", answer.about);
      all.push(std::move(row));
    }
    std::string text = answers.empty() ? "" : table.text();
    text += std::to_string(found) + " of " + std::to_string(answers.size()) + " known\n";
    console.print(text);
    Json report = Json::object();
    report.set("schema", schema).set("folder", folder_);
    console.result(report.set("answers", std::move(all)));
  }

  static std::string counted(std::size_t n, const char* one, const char* many) {
    return grouped(n) + " " + (n == 1 ? one : many);
  }
};

}  // namespace

constinit const CommandDef command::cache{
    "cache",
    "tell what a cache of results holds, and what a run would find in it",
    "A cache may be deleted at any time, and shared by runs at the same time.",
    "qtool cache explain cache\n"
    "qtool cache explain cache --model model.onnx --recipe int8_static --calib samples.npz",
    true,
    false,
    make_command<Cache>};

}  // namespace qtool

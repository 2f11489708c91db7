// SPDX-License-Identifier: Apache-2.0
// Jobs that are interrupted at any moment and run again, and jobs that share a cache: the same bytes, less work.
#include <signal.h>

#include <map>

#include "formats/base/json.h"
#include "formats/base/rng.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

using Words = std::vector<std::string>;

Words with(Words words, std::initializer_list<std::string> more) {
  words.insert(words.end(), more);
  return words;
}

/// Long enough to be interrupted in every phase: hashing, ranges, means, comparison.
Words job(const std::filesystem::path& folder) {
  return {"quantize", sample_model("digits_cnn"),   "--recipe", "int8_static",
          "-o",       (folder / "q.onnx").string(), "--calib",  "random",
          "--set",    "data.samples=800",           "--eval",   sample_data("digits_eval"),
          "--quiet"};
}

/// The model and its manifest.
std::string made_in(const std::filesystem::path& folder) {
  return bytes_of(folder / "q.onnx") + bytes_of(folder / "q.onnx.manifest.json");
}

struct Count {
  std::int64_t found = 0, computed = 0;
};

/// By kind of entry, from the log of the last run.
std::map<std::string, Count> counts_in(const std::filesystem::path& log) {
  std::map<std::string, Count> counts;
  std::ifstream file(log);
  for (std::string line; std::getline(file, line);) {
    const Json fact = Json::parse(line, "log");
    if (*fact.find("kind") != Json("kept") || !fact.find("what")) continue;
    counts[fact.find("what")->as_string()] = {fact.find("found")->as_integer(), fact.find("computed")->as_integer()};
  }
  return counts;
}

std::chrono::milliseconds time_of(const Words& words) {
  const auto start = std::chrono::steady_clock::now();
  const Outcome done = run_qtool(words);
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
}

}  // namespace

TEST_CASE("interrupted by SIGTERM, SIGINT or SIGKILL and run again: the same bytes, and no folder is left") {
  const ScratchFolder undisturbed;
  const auto took = time_of(job(undisturbed.path()));
  const std::string whole = made_in(undisturbed.path());
  const Rng rng(2, "interrupt");
  for (std::uint64_t i = 0; i < 5; ++i) {
    const ScratchFolder folder;
    int code = -1;
    for (std::uint64_t k = 0; k < 2; ++k) {
      Setup setup;
      const double when = 0.1 + 0.8 * rng.uniform(10 * i + k);
      setup.kill = std::chrono::milliseconds(static_cast<int>(when * static_cast<double>(took.count())));
      setup.signal = i % 3 == 0 ? SIGTERM : i % 3 == 1 ? SIGINT : SIGKILL;
      code = run_qtool(job(folder.path()), setup).code;
      CHECK((code == 0 || code == (i % 3 == 2 ? -SIGKILL : 75)));
      if (code == 0) break;
      CHECK(!std::filesystem::exists(folder / "q.onnx"));
    }
    if (code != 0) CHECK(run_qtool(job(folder.path())).code == 0);
    CHECK(made_in(folder.path()) == whole);
    CHECK(!std::filesystem::exists(folder / "q.onnx.resume"));
  }
}

TEST_CASE("what an interrupted run left is for the same job only") {
  const ScratchFolder folder;
  const Words words = job(folder.path());
  const auto took = time_of(words);
  const std::string whole = made_in(folder.path());
  const auto resume = folder / "q.onnx.resume";
  for (const double when : {0.5, 0.6, 0.7, 0.4}) {  // a loaded machine may be elsewhere by then
    Setup setup;
    setup.kill = std::chrono::milliseconds(static_cast<int>(when * static_cast<double>(took.count())));
    setup.signal = SIGTERM;
    run_qtool(words, setup);
    if (std::filesystem::exists(resume)) break;
  }
  if (!std::filesystem::exists(resume)) return skip("resume", "no run was interrupted in its steps");
  check_fails(with(words, {"--seed", "7"}), 2,
              {"q.onnx.resume was left by an interrupted run with another --seed", "--restart"});
  check_fails(with(words, {"--set", "calibrate_ranges.method=mse"}), 2, {"another recipe, target or --set"});
  check_fails(with(words, {"--set", "data.samples=801"}), 2, {"another recipe, target or --set and other calibration"});
  Words other = words;
  other[1] = sample_model("digits_transformer");
  check_fails(other, 2, {"with another model", "--restart"});
  CHECK(std::filesystem::exists(resume));
  CHECK(made_in(folder.path()) == whole);  // the older output stayed
  write_bytes(resume / "note.txt", "not ours");
  CHECK(run_qtool(words).code == 0);
  CHECK(made_in(folder.path()) == whole);
  CHECK(listing(resume) == std::vector<std::string>{"note.txt"});
  CHECK(run_qtool(with(words, {"--restart", "--seed", "7"})).code == 0);
}

TEST_CASE("a cache is shared by recipes: the same bytes, and only what changed is computed") {
  const ScratchFolder folder;
  const std::string cache = (folder / "cache").string(), log = (folder / "log").string();
  const auto run = [&](const char* name, std::initializer_list<std::string> more) {
    const Words words{
        "quantize", sample_model("digits_cnn"),   "--recipe", (folder / (std::string(name) + ".yaml")).string(),
        "-o",       (folder / "q.onnx").string(), "--calib",  sample_data("digits_calib"),
        "--quiet"};
    std::filesystem::remove(log);
    const Outcome done = run_qtool(with(with(words, {"--log", log}), more));
    CAPTURE(done.err);
    CHECK(done.code == 0);
    return made_in(folder.path());
  };
  const std::string steps =
      "version: 1\ntarget: ort-cpu\nsteps:\n  - fold_batch_norm\n  - assign_formats: {method: static, activations: "
      "uint8, "
      "weights: int8, grain: channel}\n  - calibrate_ranges\n  - round_nearest: {clip: mse}\n";
  write_bytes(folder / "a.yaml", steps);
  write_bytes(folder / "b.yaml", steps + "rules:\n  - where: {name: head.hidden}\n    grain: tensor\n");
  const std::string a = run("a", {}), b = run("b", {});
  CHECK(a != b);
  CHECK(run("a", {"--cache-dir", cache}) == a);
  auto counts = counts_in(log);
  const std::int64_t tensors = counts["codes"].computed, values = counts["statistics"].computed;
  CHECK(tensors > 5);
  CHECK(values > 5);
  CHECK(counts["codes"].found + counts["statistics"].found == 0);
  CHECK(run("a", {"--cache-dir", cache}) == a);
  counts = counts_in(log);
  CHECK(counts["codes"].computed + counts["statistics"].computed == 0);
  CHECK(run("b", {"--cache-dir", cache}) == b);
  counts = counts_in(log);
  CHECK(counts["codes"].computed == 1);
  CHECK(counts["codes"].found == tensors - 1);
  CHECK(counts["statistics"].computed == 0);
  CHECK(counts["statistics"].found == values);

  const auto explain = [&](std::initializer_list<std::string> more) {
    const Outcome done = run_qtool(with(with({"cache", "explain", cache}, more), {"--json", "-"}));
    CAPTURE(done.err);
    REQUIRE(done.code == 0);
    return Json::parse(done.out, "stdout");
  };
  const auto listed = static_cast<std::int64_t>(explain({}).find("entries")->as_array().size());
  CHECK(listed == tensors + 1 + values + 1);  // and the outputs of the float model
  const std::string model = sample_model("digits_cnn"), data = sample_data("digits_calib");
  Json told = explain({"--model", model, "--recipe", (folder / "b.yaml").string(), "--calib", data});
  for (const Json& answer : told.find("answers")->as_array()) CHECK(*answer.find("found") == Json(true));
  told = explain(
      {"--model", model, "--recipe", (folder / "b.yaml").string(), "--calib", data, "--set", "data.samples=32"});
  CHECK(static_cast<std::int64_t>(told.find("answers")->as_array().size()) ==
        tensors + values + 1);  // not the first alone
  CHECK(told.find("answers")->as_array().front().find("why")->as_string() == "known of other data");
  CHECK(static_cast<std::int64_t>(listing(cache).size()) == listed);  // asking writes nothing

  for (const std::string& name : listing(cache)) {  // cut short, damaged, or somebody else's
    const auto file = folder / "cache" / name;
    const std::string bytes = bytes_of(file);
    const int what = name[0] % 3;
    write_bytes(file, what == 0   ? bytes.substr(0, bytes.size() / 2)
                      : what == 1 ? "foreign"
                                  : bytes.substr(0, bytes.size() - 1) + "?");
  }
  write_bytes(folder / "cache/readme.txt", "hello");
  CHECK(explain({}).find("entries")->as_array().front().find("whole") != nullptr);
  CHECK(run("b", {"--cache-dir", cache}) == b);
  CHECK(counts_in(log)["codes"].computed == tensors);
  CHECK(run("b", {"--cache-dir", cache}) == b);
  CHECK(counts_in(log)["codes"].computed == 0);
}

TEST_CASE("solved layers are kept: the next run solves none, and the bytes are the same") {
  const ScratchFolder folder;
  const std::string log = (folder / "log").string();
  const auto run = [&](std::initializer_list<std::string> more) {
    const Words words{"quantize", sample_model("digits_transformer"), "--recipe", "w4_gptq",
                      "-o",       (folder / "q.onnx").string(),       "--calib",  sample_data("digits_calib"),
                      "--quiet"};
    std::filesystem::remove(log);
    const Outcome done = run_qtool(with(with(words, {"--log", log}), more));
    CAPTURE(done.err);
    CHECK(done.code == 0);
    return made_in(folder.path());
  };
  const std::string cache = (folder / "cache").string(), plain = run({});
  CHECK(run({"--cache-dir", cache}) == plain);
  const std::int64_t layers = counts_in(log)["solved"].computed;
  CHECK(layers > 4);
  CHECK(run({"--cache-dir", cache}) == plain);
  CHECK(counts_in(log)["solved"].found == layers);
  CHECK(counts_in(log)["solved"].computed == 0);
  CHECK(run({"--cache-dir", cache, "--set", "gptq.sweeps=1"}) != plain);
  CHECK(counts_in(log)["solved"].found == 0);
  // Other bits, the same inputs: in float they are known for all layers, else for those before the first codes.
  const auto recipe = [&](const char* name, const char* inputs, bool cached) {
    const Words words{"quantize",
                      sample_model("digits_transformer"),
                      "--recipe",
                      name,
                      "-o",
                      (folder / "q.onnx").string(),
                      "--calib",
                      sample_data("digits_calib"),
                      "--quiet",
                      "--set",
                      std::string("gptq.inputs=") + inputs,
                      "--set",
                      "gptq.asymmetric=0",
                      "--log",
                      log};
    std::filesystem::remove(log);
    const Outcome done = run_qtool(cached ? with(words, {"--cache-dir", cache}) : words);
    CAPTURE(done.err);
    CHECK(done.code == 0);
    return made_in(folder.path());
  };
  for (const char* inputs : {"float", "quantized"}) {
    CAPTURE(inputs);
    const std::string three = recipe("w3_gptq", inputs, false);
    recipe("w4_gptq", inputs, true);
    CHECK(recipe("w3_gptq", inputs, true) == three);
    const Count seen = counts_in(log)["hessian"];
    if (inputs == std::string("float")) CHECK(seen.computed == 0);
    CHECK(seen.found > 0);
    CHECK(counts_in(log)["solved"].found == 0);
  }
}

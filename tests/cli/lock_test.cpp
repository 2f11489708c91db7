// SPDX-License-Identifier: Apache-2.0
// The lock beside a model: what it holds is what the file holds, and --locked names what changed.
#include "formats/lock.h"

#include <cmath>
#include <span>

#include "cli/job_parts.h"
#include "cli/locking.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::vector<std::string> job(const std::string& output, const std::string& model = sample_model("digits_cnn"),
                             const std::string& calib = sample_data("digits_calib")) {
  return {"quantize", model, "--recipe", "int8_static", "-o", output, "--calib", calib, "--set", "data.samples=32"};
}

std::vector<std::string> with(std::vector<std::string> words, std::initializer_list<std::string> more) {
  words.insert(words.end(), more);
  return words;
}

std::string sha256(const std::string& bytes) { return hex(Hasher().bytes(std::as_bytes(std::span(bytes))).finish()); }

std::string metadata(const Graph& graph, const std::string& key) {
  for (const auto& [name, value] : graph.model->metadata) {
    if (name == key) return value;
  }
  return "none";
}

const LockedUse& use_of(const Lock& lock, const std::string& node, int input) {
  const auto found = std::find_if(lock.uses.begin(), lock.uses.end(),
                                  [&](const LockedUse& u) { return u.node == node && u.input == input; });
  REQUIRE(found != lock.uses.end());
  return *found;
}

const Tensor& constant(const Graph& graph, const std::string& name) {
  const auto v = graph.find_value(name);
  REQUIRE_MESSAGE(v, name);
  return graph[*v].data;
}

}  // namespace

TEST_CASE("the lock is the same for every number of threads, and file and manifest have its hash") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string();
  REQUIRE(run_qtool(with(job(output), {"--threads", "1"})).code == 0);
  const std::string model = bytes_of(output), lock = bytes_of(output + ".lock");
  for (const char* threads : {"2", "3"}) {
    REQUIRE(run_qtool(with(job(output), {"--threads", threads})).code == 0);
    CHECK(bytes_of(output + ".lock") == lock);
    CHECK(bytes_of(output) == model);
  }
  CHECK(metadata(read_onnx(output), "qtool.lock_sha256") == sha256(lock));
  const Json manifest = Json::parse(bytes_of(output + ".manifest.json"), "manifest");
  CHECK(*manifest.find("lock")->find("sha256") == Json(sha256(lock)));
  CHECK(lock.find(folder.path().string()) == std::string::npos);
  // Evaluation data measure; they decide nothing.
  REQUIRE(run_qtool(with(job(output), {"--eval", sample_data("digits_eval")})).code == 0);
  CHECK(bytes_of(output) == model);
}

TEST_CASE("hashes of codes and scales in the lock are those of the written file") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string();
  REQUIRE(run_qtool(job(output)).code == 0);
  const Graph written = read_onnx(output);
  const Lock lock = read_lock(output + ".lock");
  int weights = 0;
  for (const LockedUse& use : lock.uses) {
    if (use.codes_sha256.empty()) continue;
    ++weights;
    CAPTURE(use.tensor);
    CHECK(use.codes_sha256 == hex(constant(written, use.tensor + "_quantized").digest()));
    CHECK(use.scale.sha256 == hex(constant(written, use.tensor + "_scale").digest()));
    CHECK(use.steps == std::vector<std::string>{"assign_formats", "round_nearest"});
  }
  CHECK(weights == 9);
  const LockedUse& image = use_of(lock, "stem.conv", 0);
  CHECK(static_cast<float>(image.scale.values.at(0)) == 1.0F / 255);  // pixels from 0 to 1 in uint8
  CHECK(image.zero_point.values.at(0) == 0);
  CHECK(lock.layers.size() == 15);
}

TEST_CASE("a fold in the lock, done again by its formula, gives the locked float weights") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string();
  REQUIRE(run_qtool(job(output)).code == 0);
  const Graph model = read_onnx(sample_model("digits_cnn"));
  const Lock lock = read_lock(output + ".lock");
  int folds = 0;
  for (const Json& fold : lock.folds) {
    if (*fold.find("pass") != Json("fold_batch_norm")) continue;
    REQUIRE(*fold.find("side") == Json("outputs"));
    const Node& norm = model[*model.find_node(fold.find("node")->as_string())];
    const std::string into = fold.find("into")->as_string();
    const Node& conv = model[*model.find_node(into)];
    Tensor weight = model[conv.inputs[1].value].data;
    const auto gamma = model[norm.inputs[1].value].data.read<float>();
    const auto variance = model[norm.inputs[4].value].data.read<float>();
    const auto w = weight.write<float>();
    const auto epsilon = static_cast<double>(norm.attrs.get("epsilon", 1e-5F));
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t o = i / (w.size() / gamma.size());
      w[i] = static_cast<float>(static_cast<double>(w[i]) * (static_cast<double>(gamma[o]) /
                                                             std::sqrt(static_cast<double>(variance[o]) + epsilon)));
    }
    CAPTURE(into);
    CHECK(use_of(lock, into, 1).float_sha256 == hex(weight.digest()));
    ++folds;
  }
  CHECK(folds == 7);
}

TEST_CASE("index ranges with decisions of their own stand in the lock, with the hash of their codes") {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
      g (float[1,4] x) => (float[1,2] y) < float[4,2] w = {1,-1, 2,-2, 90,0.5, 3,-3} > { y = MatMul (x, w) })");
  Use& weight = g[g.order()[0]].inputs[1];
  QuantSpec spec, wide;
  spec.format = &number::int4;
  wide.format = &number::int8;
  wide.scale = Tensor::of<float>({}, std::vector<float>{0.75F});
  spec.ranges = {{2, 3, std::make_shared<const QuantSpec>(wide)}, {3, 4, nullptr}};
  weight.quant = std::make_shared<const QuantSpec>(spec);
  Threads threads(1);
  const Lock lock = lock_of(g, {}, {}, 0, {}, {}, {}, threads);
  REQUIRE(lock.uses.size() == 1);
  const LockedUse& use = lock.uses[0];
  CHECK(use.range_axis == 0);
  REQUIRE(use.ranges.size() == 2);
  CHECK(use.ranges[0].format == "int8");
  CHECK(use.ranges[0].scale.values == std::vector<double>{0.75});
  CHECK(use.ranges[0].codes_sha256 == hex(Tensor::of<std::int8_t>({1, 2}, std::vector<std::int8_t>{120, 1}).digest()));
  CHECK(use.ranges[1].begin == 3);
  CHECK(use.ranges[1].format.empty());
  CHECK(use.ranges[1].codes_sha256.empty());
  CHECK(use.scale.values == std::vector<double>{static_cast<double>(2.0F / 7)});  // not that of 90
}

TEST_CASE("--locked comes to the same bytes, and names what a change of data, recipe or weight changed") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), lock = (folder / "kept.lock").string();
  REQUIRE(run_qtool(job(output)).code == 0);
  const std::string model = bytes_of(output), text = bytes_of(output + ".lock");
  write_bytes(lock, text);
  CHECK(run_qtool(with(job(output), {"--locked", lock, "--threads", "3"})).code == 0);
  CHECK(run_qtool(with(job(output), {"--locked", output + ".lock"})).code == 0);  // the one that it replaces
  CHECK(bytes_of(output) == model);
  CHECK(bytes_of(output + ".lock") == text);

  check_fails(with(job(output, sample_model("digits_cnn"), sample_data("digits_eval")), {"--locked", lock}), 5,
              {"came to other decisions than", "kept.lock: the calibration data are others; fold of bias_correct at",
               " more", "hint: without --locked"});
  check_fails(with(job(output), {"--locked", lock, "--set", "bias_correct.samples=8"}), 5,
              {"the recipe is another; step bias_correct: knobs \"method=analytic samples=16\" -> \"method=analytic "
               "samples=8\"; fold of bias_correct at stem.conv: shift"});
  check_fails(with(job(output), {"--locked", lock, "--set", "calibrate_ranges.method=percentile", "--set",
                                 "bias_correct.samples=0"}),
              5, {"step calibrate_ranges: knobs"});

  Graph changed = read_onnx(sample_model("digits_cnn"));
  const auto weight = changed.find_value("head.logits.weight");
  changed[*weight].data.write<float>()[3] += 0.25F;
  const std::string other = (folder / "changed.onnx").string();
  write_onnx(changed, other);
  const Outcome named = run_qtool(with(job(output, other), {"--locked", lock}));
  CHECK(named.code == 5);
  CHECK(named.err.find("the model is another; fold of bias_correct at head.logits: shift; head.logits input 1 "
                       "(head.logits.weight): scale, float weights, codes") != std::string::npos);
  CHECK(bytes_of(output) == model);
  CHECK(bytes_of(output + ".lock") == text);
  CHECK(listing(folder.path()) ==
        std::vector<std::string>{"changed.onnx", "kept.lock", "q.onnx", "q.onnx.lock", "q.onnx.manifest.json"});
}

TEST_CASE("a lock that is none, or of another schema, is refused before any work") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), lock = (folder / "kept.lock").string();
  write_bytes(lock, "{\"schema\": \"qtool.lock/2\"}");
  check_fails(with(job(output), {"--locked", lock}), 5, {"its schema is qtool.lock/2, newer than qtool.lock/1"});
  write_bytes(lock, "{\"schema\": \"qtool.lock/0\"}");
  check_fails(with(job(output), {"--locked", lock}), 5,
              {"its schema is qtool.lock/0, older than qtool.lock/1", "quantize the model again"});
  write_bytes(lock, "not a lock");
  check_fails(with(job(output), {"--locked", lock}), 5, {"kept.lock:1:"});
  check_fails(with(job(output), {"--locked", (folder / "none").string()}), 5, {"none"});
  CHECK(listing(folder.path()) == std::vector<std::string>{"kept.lock"});
}

TEST_CASE("rules and the nodes that stay float stand in the lock") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), recipe = (folder / "mine.yaml").string();
  write_bytes(recipe,
              "version: 1\ntarget: ort-cpu\nsummary: rules\nsteps:\n"
              "  - assign_formats: {method: weights, weights: int8, grain: groups}\n    id: main\n  - round_nearest\n"
              "rules:\n  - where: {name: \"head*\"}\n    keep: float\n"
              "  - where: {op: MatMul, name: \"block0*\"}\n    weights: int4\n");
  const Outcome done =
      run_qtool({"quantize", sample_model("digits_transformer"), "--recipe", recipe, "-o", output, "--quiet"});
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  const Lock lock = read_lock(output + ".lock");
  bool four = false, kept = false;
  for (const LockedUse& use : lock.uses) {
    CHECK(use.steps.at(0) == "main");
    if (!use.codes_sha256.empty()) CHECK((use.format == "int4") == (use.rule == 2));
    four = four || use.rule == 2;
  }
  for (const LockedFloat& f : lock.floats) kept = kept || (f.node == "head.logits" && f.why == "a rule keeps it float");
  CHECK(four);
  CHECK(kept);
  CHECK(lock.layers.empty());  // nothing was measured
}

// SPDX-License-Identifier: Apache-2.0
// quantize end to end on the samples: what is written, what is reported, what is left alone on failure.
#include <span>

#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

struct Job {
  const char *model, *recipe, *calib, *eval;
};

std::vector<std::string> words_for(const Job& job, const std::string& output) {
  return {"quantize", sample_model(job.model),
          "--recipe", job.recipe,
          "-o",       output,
          "--calib",  sample_data(job.calib),
          "--eval",   sample_data(job.eval),
          "--set",    "data.samples=32",
          "--set",    "eval.samples=64"};
}

std::vector<std::string> with(std::vector<std::string> words, std::initializer_list<std::string> more) {
  words.insert(words.end(), more);
  return words;
}

constexpr Job cnn_static{"digits_cnn", "int8_static", "digits_calib", "digits_eval"};
constexpr Job lstm_weights{"tiny_lstm", "int8_weights", "arith_calib", "arith_eval"};

}  // namespace

TEST_CASE("every shipped recipe quantizes the samples that fit it") {
  const ScratchFolder folder;
  const Job jobs[] = {cnn_static,
                      {"digits_transformer", "int8_static", "digits_calib", "digits_eval"},
                      {"digits_transformer", "int8_dynamic", "digits_calib", "digits_eval"},
                      {"digits_transformer", "int8_weights", "digits_calib", "digits_eval"},
                      {"digits_transformer", "int4_weights", "digits_calib", "digits_eval"},
                      {"tiny_lstm", "int8_dynamic", "arith_calib", "arith_eval"},
                      lstm_weights};
  for (const Job& job : jobs) {
    CAPTURE(job.model);
    CAPTURE(job.recipe);
    const std::string output = (folder / (std::string(job.model) + job.recipe + ".onnx")).string();
    const Outcome done = run_qtool(with(words_for(job, output), {"--json", "-"}));
    CAPTURE(done.err);
    REQUIRE(done.code == 0);
    const Json report = Json::parse(done.out, "stdout");
    CHECK(!report.find("emitted")->as_array().empty());
    CHECK(*report.find("compared_on") == Json("eval"));
    CHECK(report.find("output_bytes")->as_integer() == static_cast<std::int64_t>(std::filesystem::file_size(output)));
    CHECK(report.find("output_bytes")->as_integer() < report.find("input_bytes")->as_integer());
    const double sqnr = report.find("comparison")->find("outputs")->as_array()[0].find("sqnr_db")->as_number();
    CHECK(sqnr > 10);
  }
  CHECK(listing(folder.path()).size() == 3 * std::size(jobs));  // with their manifests and locks
}

TEST_CASE("the summary tells size, error, agreement, accuracy and what was quantized") {
  const ScratchFolder folder;
  const Outcome done = run_qtool(words_for(cnn_static, (folder / "q.onnx").string()));
  CHECK(done.code == 0);
  for (const char* part : {"times smaller", "SQNR, dB", "same top-1", "KL, nats", "accuracy", "worst layers",
                           "64 held-out samples", "quantized:", "no gate"}) {
    CHECK_MESSAGE(done.out.find(part) != std::string::npos, part);
  }
}

TEST_CASE("without -o the file is named after model and recipe, in the current folder") {
  const ScratchFolder folder;
  Setup there;
  there.folder = folder.path();
  const Outcome done = run_qtool({"quantize", sample_model("tiny_lstm"), "--recipe", "int8_weights", "--quiet"}, there);
  CHECK(done.code == 0);
  CHECK(done.out.empty());
  CHECK(listing(folder.path()) == std::vector<std::string>{"tiny_lstm.int8_weights.onnx",
                                                           "tiny_lstm.int8_weights.onnx.lock",
                                                           "tiny_lstm.int8_weights.onnx.manifest.json"});
}

TEST_CASE("a gate that is met publishes, one that is missed exits with 3 and publishes nothing") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), report = (folder / "report.json").string();
  const auto words = words_for(cnn_static, output);
  CHECK(run_qtool(with(words, {"--set", "gate.sqnr_db=5", "--set", "gate.size_ratio=0.5"})).out.find("gate: met") !=
        std::string::npos);
  const std::string old = bytes_of(output);
  const Outcome missed = run_qtool(with(words, {"--set", "gate.sqnr_db=90", "--json", report}));
  CHECK(missed.code == 3);
  CHECK(missed.err.find("--set gate.sqnr_db=90: the model missed the gate: sqnr_db of \"logits\" is ") !=
        std::string::npos);
  CHECK(missed.out.find("SQNR, dB") != std::string::npos);
  CHECK(bytes_of(output) == old);
  const Json gate = *Json::parse(bytes_of(report), report).find("gate");
  CHECK(*gate.as_array()[0].find("verdict") == Json("missed"));
  CHECK(run_qtool(with(words, {"--set", "gate.size_ratio=0.01"})).code == 3);
  CHECK(listing(folder.path()).size() == 4);  // model, lock, manifest, report
}

TEST_CASE("samples that the model was fitted to do not judge it") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), data = sample_data("digits_eval");
  const std::vector<std::string> words{
      "quantize", sample_model("digits_cnn"), "--recipe", "int8_static", "--calib", data, "--eval", data, "-o", output};
  check_fails(with(words, {"--set", "gate.sqnr_db=5"}), 7,
              {"the gate is measured on held-out data, but", "evaluation samples are calibration samples"});
  CHECK(listing(folder.path()).empty());
  const Outcome told = run_qtool(words);
  CHECK(told.code == 0);
  CHECK(told.err.find("the model was fitted to what it is judged by") != std::string::npos);
}

TEST_CASE("a manifest says what a model is made of, the same for every run of the job") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), manifest = output + ".manifest.json";
  const auto words = words_for(cnn_static, output);
  REQUIRE(run_qtool(with(words, {"--threads", "1"})).code == 0);
  const std::string text = bytes_of(manifest);
  const Json json = Json::parse(text, manifest);
  CHECK(*json.find("schema") == Json("qtool.manifest/1"));
  const std::string model = bytes_of(output);
  const Json& file = json.find("files")->as_array().at(0);
  CHECK(*file.find("name") == Json("q.onnx"));
  CHECK(file.find("bytes")->as_integer() == static_cast<std::int64_t>(model.size()));
  const auto digest = [](const std::string& bytes) {
    return hex(Hasher().bytes(std::as_bytes(std::span(bytes))).finish());
  };
  CHECK(*file.find("sha256") == Json(digest(model)));
  CHECK(*json.find("model")->find("sha256") == Json(digest(bytes_of(sample_model("digits_cnn")))));
  CHECK(json.find("calibration")->find("samples")->as_integer() == 32);
  for (const std::string& word : {folder.path().string(), std::string(QTOOL_SOURCE_DIR), std::string("seconds")}) {
    CHECK(text.find(word) == std::string::npos);
  }
  for (const char* threads : {"2", "3", "8"}) {
    REQUIRE(run_qtool(with(words, {"--threads", threads})).code == 0);
    CHECK(bytes_of(manifest) == text);
    CHECK(bytes_of(output) == model);
  }
}

TEST_CASE("nothing worse than the last model is published") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string(), report = (folder / "last.json").string();
  const auto words = words_for(cnn_static, output);
  REQUIRE(run_qtool(with(words, {"--json", report})).code == 0);
  const std::string old = bytes_of(output);
  CHECK(run_qtool(with(words, {"--ratchet", report})).code == 0);  // as good as itself
  const Outcome worse = run_qtool(with(words, {"--ratchet", report, "--set", "calibrate_ranges.method=percentile",
                                               "--set", "calibrate_ranges.percentile=90"}));
  CHECK(worse.code == 3);
  CHECK(worse.err.find("last.json: the model is worse than the last one: sqnr_db of \"logits\" is ") !=
        std::string::npos);
  CHECK(bytes_of(output) == old);
  check_fails(with(words, {"--ratchet", (folder / "none.json").string()}), 5, {"none.json"});
  // Reports had no schema at first; those of a later one are not guessed at.
  const std::string text = bytes_of(report), schema = "\"schema\": \"qtool.report/1\",";
  const std::size_t at = text.find(schema);
  REQUIRE(at != std::string::npos);
  write_bytes(report, std::string(text).replace(at, schema.size(), ""));
  CHECK(run_qtool(with(words, {"--ratchet", report})).code == 0);
  write_bytes(report, std::string(text).replace(at, schema.size(), "\"schema\": \"qtool.report/2\","));
  check_fails(with(words, {"--ratchet", report}), 5, {"its schema is qtool.report/2, newer than qtool.report/1"});
  write_bytes(report, std::string(text).replace(at, schema.size(), "\"schema\": \"qtool.report/0\","));
  check_fails(with(words, {"--ratchet", report}), 5, {"qtool.report/0, older than", "make the report again"});
  // On other data: not in pairs, and only where the report tells what samples lost.
  write_bytes(report, text);
  const Outcome other = run_qtool(with(words, {"--ratchet", report, "--set", "eval.samples=50", "--json", "-"}));
  CHECK(other.code == 0);
  CHECK(other.out.find("is of other held-out data") != std::string::npos);
  const std::string losses = "\"losses\"";
  REQUIRE(text.find(losses) != std::string::npos);
  write_bytes(report, std::string(text).replace(text.find(losses), losses.size(), "\"none\""));
  CHECK(run_qtool(with(words, {"--ratchet", report})).code == 0);
  check_fails(with(words, {"--ratchet", report, "--set", "eval.samples=50"}), 2, {"measured on other held-out data"});
  write_bytes(report, "{}");
  check_fails(with(words, {"--ratchet", report}), 2, {"this is no report of a model that was measured"});
}

TEST_CASE("the share of integer arithmetic is a limit") {
  const ScratchFolder folder;
  const auto words = words_for(cnn_static, (folder / "q.onnx").string());
  CHECK(run_qtool(with(words, {"--set", "gate.integer_share=0.99"})).code == 0);
  const Outcome weights = run_qtool({"quantize", sample_model("digits_cnn"), "--recipe", "int8_weights", "-o",
                                     (folder / "w.onnx").string(), "--set", "gate.integer_share=0.01"});
  CHECK(weights.code == 3);
  CHECK(weights.err.find("integer_share is 0.000") != std::string::npos);
}

TEST_CASE("a gate without evaluation data, and labels that are not there, are refused before any work") {
  const ScratchFolder folder;
  const std::string model = sample_model("digits_cnn"), output = (folder / "q.onnx").string();
  check_fails({"quantize", model, "--recipe", "int8_weights", "-o", output, "--set", "gate.kl=1"}, 2,
              {"--set gate.kl=1: the gate is measured on held-out data, and there are none"});
  check_fails({"quantize", model, "--recipe", "int8_weights", "-o", output, "--set", "gate.top1_drop=1", "--eval",
               sample_data("digits_calib")},
              7, {"the gate's top1_drop needs labels"});
  CHECK(listing(folder.path()).empty());
}

TEST_CASE("an existing output stays as it was on every failure, and with --no-clobber") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string();
  write_bytes(output, "old");
  const std::vector<std::string> words{"quantize", sample_model("tiny_lstm"), "--recipe", "int8_weights", "-o", output};
  check_fails(with(words, {"--no-clobber"}), 2, {"exists"});
  check_fails(with(words, {"--eval", sample_data("digits_eval")}), 7, {});
  check_fails(with(words, {"--set", "round_nearest.clipp=x"}), 2, {"unknown key \"clipp\""});
  CHECK(bytes_of(output) == "old");
  CHECK(run_qtool(with(words, {"--quiet"})).code == 0);
  CHECK(bytes_of(output) != "old");
  CHECK(listing(folder.path()) == std::vector<std::string>{"q.onnx", "q.onnx.lock", "q.onnx.manifest.json"});
}

TEST_CASE("outputs that cannot be written are refused with the path") {
  const ScratchFolder folder;
  const std::string model = sample_model("tiny_lstm");
  const auto to = [&](const std::string& output) {
    return std::vector<std::string>{"quantize", model, "--recipe", "int8_weights", "-o", output};
  };
  check_fails(to((folder / "none/q.onnx").string()), 2, {"none/q.onnx", "No such file or directory"});
  check_fails(to(folder.path().string()), 2, {"it is a directory"});
  check_fails(to("/dev/null"), 2, {"it is not a regular file"});
  check_fails(to("/proc/q.onnx"), 2, {"cannot write /proc/q.onnx"});
  check_fails({"quantize", model, "--recipe", "int8_weights", "-o", model}, 2, {"is the input file"});
  const std::string link = (folder / "link.onnx").string();
  std::filesystem::create_symlink(model, link);
  check_fails(to(link), 2, {"is the input file"});
  std::filesystem::remove(link);
  Setup small;
  small.largest_file = 4096;
  check_fails(to((folder / "q.onnx").string()), 4, {"q.onnx", "File too large"}, small);
  CHECK(listing(folder.path()).empty());
}

TEST_CASE("a full disk leaves the old file and says so") {
  const ScratchFolder folder;
  const std::string mount = "mount -t tmpfs -o size=96k none '" + folder.path().string() + "' 2>/dev/null";
  if (std::system(mount.c_str()) != 0) return skip("full disk", "mounting a small tmpfs is not allowed here");
  const std::string output = (folder / "q.onnx").string();
  write_bytes(output, "old");
  check_fails({"quantize", sample_model("digits_cnn"), "--recipe", "int8_weights", "-o", output}, 4,
              {"q.onnx", "No space left on device"});
  CHECK(bytes_of(output) == "old");
  CHECK(listing(folder.path()) == std::vector<std::string>{"q.onnx"});
  CHECK(std::system(("umount '" + folder.path().string() + "'").c_str()) == 0);
}

TEST_CASE("the log has one JSON object per fact") {
  const ScratchFolder folder;
  const std::string log = (folder / "log").string();
  CHECK(run_qtool(with(words_for(lstm_weights, (folder / "q.onnx").string()), {"--log", log})).code == 0);
  std::ifstream lines(log);
  int steps = 0;
  for (std::string line; std::getline(lines, line);) steps += *Json::parse(line, log).find("kind") == Json("step");
  CHECK(steps == 4);
}

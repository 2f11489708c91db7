// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"

#include <cstdlib>

#include "cli/command.h"
#include "formats/base/json.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

TEST_CASE("help, version and every command's help exit with 0") {
  CHECK(run_qtool({"--help"}).out.find("quantize") != std::string::npos);
  CHECK(run_qtool({"--version"}).out == "qtool " QTOOL_VERSION "\n");
  for (const CommandDef* def : commands()) {
    CAPTURE(def->name);
    const Outcome done = run_qtool({std::string(def->name), "--help"});
    CHECK(done.code == 0);
    CHECK(done.err.empty());
    CHECK(done.out.find("Usage: qtool " + std::string(def->name)) != std::string::npos);
  }
}

TEST_CASE("command line errors exit with 2 and tell the nearest name") {
  check_fails({}, 2, {"no command given"});
  check_fails({"quantise"}, 2, {"unknown command quantise; did you mean quantize?"});
  check_fails({"--quiet", "passes"}, 2, {"an option before the command: --quiet"});
  check_fails({"quantize", "--recipie", "x"}, 2,
              {"unknown option --recipie of `qtool quantize`; did you mean --recipe?"});
  check_fails({"quantize"}, 2, {"MODEL is required"});
  check_fails({"quantize", "m.onnx"}, 2, {"--recipe is required"});
  check_fails({"quantize", "m.onnx", "--recipe"}, 2, {"--recipe"});
  check_fails({"quantize", "m.onnx", "--recipe", ""}, 2, {"--recipe", "empty"});
  check_fails({"quantize", "m.onnx", "n.onnx", "--recipe", "x"}, 2, {"n.onnx"});
  check_fails({"quantize", "m.onnx", "--recipe", "x", "--threads", "many"}, 2, {"--threads"});
  check_fails({"quantize", "m.onnx", "--recipe", "x", "--threads", "-1"}, 2, {"--threads"});
  check_fails({"quantize", "m.onnx", "--recipe", "x", "--seed", "-1"}, 2, {"--seed"});
  check_fails({"quantize", "m.onnx", "--recipe", "int8"}, 2, {"no recipe \"int8\""});
  check_fails({"passes", "fold_constant"}, 2, {"there is no pass \"fold_constant\"; did you mean \"fold_constants\"?"});
  check_fails({"targets", "ort"}, 2, {"unknown target \"ort\"; did you mean \"ort-cpu\"?"});
  check_fails({"recipe", "lst"}, 2, {"did you mean list?"});
  check_fails({"recipe", "show"}, 2, {"needs the name"});
  check_fails({"completion", "csh"}, 2, {"csh", "bash, zsh, fish"});
  check_fails({"help", "exit-code"}, 2, {"did you mean exit-codes?"});
  check_fails({"passes", "--log", "/no/such/folder/log"}, 2, {"/no/such/folder/log"});
  Setup quiet;
  quiet.out = "/dev/null";
  check_fails({"passes", "--json", "/no/such/folder/p.json"}, 2, {"/no/such/folder/p.json"}, quiet);
}

TEST_CASE("lists print, and --json gives the same as JSON alone") {
  const std::vector<std::vector<std::string>> lists{{"passes"},
                                                    {"passes", "calibrate_ranges"},
                                                    {"targets"},
                                                    {"targets", "ort-cpu"},
                                                    {"targets", "ort-cuda"},
                                                    {"recipe", "list"},
                                                    {"recipe", "check", "int8_static"},
                                                    {"recipe", "show", "int8_static"},
                                                    {"inspect", sample_model("tiny_lstm")},
                                                    {"help", "exit-codes"}};
  for (const auto& words : lists) {
    CAPTURE(words);
    const Outcome text = run_qtool(words);
    CHECK(text.code == 0);
    CHECK(text.err.empty());
    CHECK(!text.out.empty());
    std::vector<std::string> with_json = words;
    with_json.insert(with_json.end(), {"--json", "-"});
    const Outcome json = run_qtool(with_json);
    CHECK(json.code == 0);
    CHECK_NOTHROW(Json::parse(json.out, "stdout"));
  }
}

TEST_CASE("a failure is JSON too, in --json and in the log") {
  const ScratchFolder folder;
  const std::string log = (folder / "log").string();
  const Outcome done = run_qtool({"inspect", "none.onnx", "--json", "-", "--log", log});
  CHECK(done.code == 5);
  const Json error = *Json::parse(done.out, "stdout").find("error");
  CHECK(*error.find("code") == Json(5));
  CHECK(*error.find("name") == Json("input"));
  CHECK(error.find("message")->as_string().find("none.onnx") != std::string::npos);
  CHECK(*Json::parse(bytes_of(log), log).find("kind") == Json("error"));
}

TEST_CASE("inspect counts what is in a sample") {
  const Outcome done = run_qtool({"inspect", sample_model("digits_cnn"), "--json", "-"});
  const Json report = Json::parse(done.out, "stdout");
  CHECK(*report.find("nodes") == Json(30));
  CHECK(*report.find("operators")->find("Conv") == Json(7));
  CHECK(*report.find("opsets")->find("ai.onnx") == Json(17));
  CHECK(report.find("inputs")->as_array()[0].dump() ==
        R"({"name": "image", "dtype": "f32", "shape": ["N", 1, 16, 16]})");
  CHECK(*report.find("quantized_nodes") == Json(0));
  const Outcome text = run_qtool({"inspect", sample_model("digits_cnn"), "--text"});
  CHECK(text.out.find("BatchNormalization") != std::string::npos);
}

TEST_CASE("a closed, full or missing standard output does no harm") {
  Setup full;
  full.out = "/dev/full";
  CHECK(run_qtool({"passes"}, full).code == 4);
  const std::string qtool = std::string(QTOOL_BINARY_DIR) + "/qtool";
  CHECK(std::system(("'" + qtool + "' passes >&- 2>&-").c_str()) == 0);
  CHECK(std::system(("bash -c \"set -o pipefail; '" + qtool + "' passes | true\"").c_str()) == 0);
}

TEST_CASE("results go to files and devices without replacing devices") {
  const ScratchFolder folder;
  const std::string json = (folder / "p.json").string();
  CHECK(run_qtool({"passes", "--quiet", "--json", json}).code == 0);
  CHECK_NOTHROW(Json::parse(bytes_of(json), json));
  CHECK(run_qtool({"passes", "--json", "/dev/stderr"}).err.find("fold_constants") != std::string::npos);
  CHECK(run_qtool({"passes", "--json", "/dev/full"}).code == 4);
  CHECK(!std::filesystem::is_regular_file("/dev/full"));
}

TEST_CASE("opt without a pass copies bit for bit; - prints text") {
  const ScratchFolder folder;
  for (const char* name : {"digits_cnn", "digits_transformer", "tiny_lstm"}) {
    CAPTURE(name);
    const std::string copy = (folder / (std::string(name) + ".onnx")).string();
    CHECK(run_qtool({"opt", sample_model(name), "-o", copy}).code == 0);
    CHECK(bytes_of(copy) == bytes_of(sample_model(name)));
  }
  const std::string folded = (folder / "folded.onnx").string();
  CHECK(run_qtool({"opt", sample_model("digits_cnn"), "--pass", "fold_batch_norm", "-o", folded}).code == 0);
  const Outcome text = run_qtool({"opt", folded, "-o", "-"});
  CHECK(text.out.find("BatchNormalization") == std::string::npos);
  CHECK(text.out.find("Conv") != std::string::npos);
  check_fails({"opt", sample_model("digits_cnn"), "-o", sample_model("digits_cnn")}, 2, {"is the input file"});
}

TEST_CASE("run, eval and compare work on a sample") {
  const ScratchFolder folder;
  const std::string out = (folder / "out.npz").string();
  CHECK(run_qtool({"run", sample_model("tiny_lstm"), "--inputs", sample_data("arith_calib"), "-o", out}).code == 0);
  CHECK(std::filesystem::file_size(out) > 200 * 48 * 13 * 4);
  const Outcome eval =
      run_qtool({"eval", sample_model("tiny_lstm"), "--data", sample_data("arith_eval"), "--json", "-"});
  CHECK(eval.code == 0);
  // samples/README.md: 56.44 % of all characters, measured with ONNX Runtime.
  CHECK(Json::parse(eval.out, "stdout").find("outputs")->as_array()[0].find("accuracy")->as_number() ==
        doctest::Approx(0.5644).epsilon(1e-4));
  const Outcome same = run_qtool(
      {"compare", sample_model("tiny_lstm"), sample_model("tiny_lstm"), "--data", sample_data("arith_calib")});
  CHECK(same.code == 0);
  CHECK(same.out.find("exact") != std::string::npos);
}

TEST_CASE("a user's narrow kernels stand, with one line of warning") {
  Setup narrow;
  narrow.environment = {"OPENBLAS_CORETYPE=Prescott"};
  const Outcome done =
      run_qtool({"run", sample_model("tiny_lstm"), "--inputs", sample_data("arith_calib"), "--quiet"}, narrow);
  CHECK(done.code == 0);
  if (done.err.empty()) return skip("narrow kernels", "this processor has nothing wider, or OpenBLAS is absent");
  CHECK(done.err.find("warning: OPENBLAS_CORETYPE=Prescott holds") == 0);
  CHECK(done.err.find('\n') == done.err.size() - 1);
}

TEST_CASE("names from outside cannot drive the terminal") {
  const Outcome done = run_qtool({"inspect", "no\033]0;title\007such"});
  CHECK(done.code == 5);
  CHECK(done.err.find('\033') == std::string::npos);
  CHECK(done.err.find("\\x1b") != std::string::npos);
}

TEST_CASE("completion scripts are accepted by their shells") {
  const ScratchFolder folder;
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const std::string file = (folder / shell).string();
    write_bytes(file, run_qtool({"completion", shell}).out);
    if (std::system(("command -v " + shell + " >/dev/null").c_str()) != 0) {
      skip("completion", shell + " is not installed");
      continue;
    }
    CHECK(std::system((shell + " -n '" + file + "'").c_str()) == 0);
  }
  // As bash calls it: what stands behind `qtool quantize --recipe int8_` is completed from the shipped recipes.
  write_bytes(folder / "ask", "source '" + (folder / "bash").string() +
                                  "'\nCOMP_WORDS=(qtool quantize --recipe int8_)\nCOMP_CWORD=3\n_qtool\n"
                                  "echo ${COMPREPLY[*]}\n");
  const std::string asked = "bash '" + (folder / "ask").string() + "' > '" + (folder / "words").string() + "'";
  CHECK(std::system(asked.c_str()) == 0);
  CHECK(bytes_of(folder / "words").find("int8_dynamic int8_fast int8_static int8_weights") != std::string::npos);
}

TEST_CASE("JSON results name their schema") {
  const auto schema = [](const std::vector<std::string>& words) {
    return Json::parse(run_qtool(words).out, "stdout").find("schema")->as_string();
  };
  const std::string model = sample_model("digits_cnn");
  CHECK(schema({"inspect", model, "--json", "-"}) == "qtool.inspect/1");
  CHECK(schema({"recipe", "check", "int8_static", "--json", "-"}) == "qtool.recipe/1");
  CHECK(schema({"diff", model, model, "--json", "-"}) == "qtool.model_diff/1");
  CHECK(schema({"inspect", "none.onnx", "--json", "-"}) == "qtool.error/1");
  CHECK(schema({"passes", "--json", "-", "--quiet"}) == "qtool.pass_list/1");
  CHECK(schema({"passes", "round_nearest", "--json", "-", "--quiet"}) == "qtool.passes/1");
  CHECK(schema({"targets", "--json", "-", "--quiet"}) == "qtool.target_list/1");
  CHECK(schema({"recipe", "list", "--json", "-", "--quiet"}) == "qtool.recipe_list/1");
  CHECK(schema({"help", "exit-codes", "--json", "-", "--quiet"}) == "qtool.exit_codes/1");
  CHECK(schema({"eval", model, "-d", sample_data("digits_eval"), "--json", "-"}) == "qtool.eval/1");
}

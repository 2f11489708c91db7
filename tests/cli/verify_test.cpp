// SPDX-License-Identifier: Apache-2.0
// `qtool verify` as users see it: what it prints, its JSON, its exit code, and any bytes instead of a model.
#include <fstream>

#include "backends/backend.h"
#include "backends/verify/verify.h"
#include "formats/base/error.h"
#include "formats/base/json.h"
#include "formats/file/reader.h"
#include "formats/lock.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::string quantized(const ScratchFolder& folder, std::initializer_list<std::string> more = {}) {
  const std::string file = (folder / "q.onnx").string();
  std::vector<std::string> words{"quantize", sample_model("tiny_lstm"), "--recipe", "int4_weights", "-o", file,
                                 "--quiet"};
  words.insert(words.end(), more);
  REQUIRE(run_qtool(words).code == 0);
  return file;
}

/// With the second scale of the only weight zero.
std::string damaged(const ScratchFolder& folder, const std::string& file) {
  Graph g = read_onnx(file);
  g[*g.find_value("head.weight_scales")].data.write<float>()[1] = 0;
  const std::string bad = (folder / "bad.onnx").string();
  write_onnx(g, bad);
  return bad;
}

}  // namespace

TEST_CASE("verify: a clean file exits with 0 and tells what was compared") {
  const ScratchFolder folder;
  const std::string file = quantized(folder);
  const std::vector<std::string> words{"verify", file,          "--against", sample_model("tiny_lstm"),
                                       "--lock", file + ".lock"};
  const Outcome done = run_qtool(words);
  CAPTURE(done.err);
  CHECK(done.code == 0);
  CHECK(done.out.find("no defects for ONNX Runtime") != std::string::npos);
  std::vector<std::string> with_json = words;
  with_json.insert(with_json.end(), {"--json", "-"});
  const Json report = Json::parse(run_qtool(with_json).out, "stdout");
  CHECK(*report.find("schema") == Json("qtool.verify/1"));
  CHECK(*report.find("target") == Json("ort-cpu"));
  CHECK(*report.find("defects") == Json(0));
  CHECK(*report.find("compared")->find("weights") == Json(1));
  CHECK(*report.find("compared")->find("biases") == Json(1));
  CHECK(*report.find("compared")->find("hashes") == Json(1));
  CHECK(report.find("not_compared")->as_array().empty());
}

TEST_CASE("verify: every defect is a sentence, and the exit code is 8") {
  const ScratchFolder folder;
  const std::string bad = damaged(folder, quantized(folder));
  const Outcome done = run_qtool({"verify", bad, "--against", sample_model("tiny_lstm")});
  CHECK(done.code == 8);
  CHECK(done.out.find("node \"head.matmul\" (MatMulNBits): scale 1 is 0") != std::string::npos);
  CHECK(done.out.find("codes are not the nearest") != std::string::npos);  // not the first defect alone
  CHECK(done.err.find("has 2 defects") != std::string::npos);
  const Outcome json = run_qtool({"verify", bad, "--json", "-", "--quiet"});
  CHECK(json.code == 8);
  const Json report = Json::parse(json.out, "stdout");
  CHECK(*report.find("defects") == Json(1));
  const Json& defect = report.find("list")->as_array()[0];
  CHECK(*defect.find("where") == Json("node \"head.matmul\" (MatMulNBits)"));
  CHECK(defect.find("what_to_do")->as_string().find("finite and positive") != std::string::npos);
}

TEST_CASE("verify: the runtime is that of the manifest, or the one named") {
  const ScratchFolder folder;
  const std::string file = quantized(folder, {"--target", "openvino"});
  CHECK(run_qtool({"verify", file}).out.find("for OpenVINO") != std::string::npos);
  const Outcome other = run_qtool({"verify", file, "--target", "tensorrt"});
  CHECK(other.code == 8);
  CHECK(other.out.find("TensorRT has no operators of com.microsoft") != std::string::npos);
}

TEST_CASE("verify: mistakes of the command line and of the files beside it") {
  const ScratchFolder folder;
  const std::string file = quantized(folder);
  check_fails({"verify", file, "--lock", file + ".lock"}, 2, {"--against"});
  check_fails({"verify", file, "--against", sample_model("tiny_lstm"), "--lock", file}, 5, {file});
  check_fails({"verify", (folder / "none.onnx").string()}, 5, {"none.onnx"});
  check_fails({"verify", file, "--against", file + ".lock"}, 5, {"cannot be compared with"});
  check_fails({"verify", file, "--target", "ort"}, 2, {"did you mean"});
}

TEST_CASE("verify: what is wrong with the model already is not held against the file") {
  const ScratchFolder folder;
  const std::string bad = damaged(folder, quantized(folder));
  const Outcome done = run_qtool({"verify", bad, "--against", bad});
  CHECK(done.code == 0);
  CHECK(done.out.find("as in the model already") != std::string::npos);
}

TEST_CASE("verify: another model than the one that the file was made of is told apart") {
  const ScratchFolder folder;
  const std::string file = quantized(folder);
  Graph g = read_onnx(sample_model("tiny_lstm"));
  for (float& w : g[*g.find_value("head.weight")].data.write<float>()) w *= 1.5F;
  const std::string other = (folder / "other.onnx").string();
  write_onnx(g, other);
  const Outcome done = run_qtool({"verify", file, "--against", other});
  CHECK(done.code == 8);
  CHECK(done.out.find("codes are not the nearest") != std::string::npos);
}

TEST_CASE("verify: no bytes make it crash, with a model and a lock beside them") {
  const ScratchFolder folder;
  const std::string file = quantized(folder), model = sample_model("tiny_lstm");
  const std::string good = bytes_of(file);
  const Lock lock = read_lock(file + ".lock");
  const Target target = find_backend("ort-cpu")->target();
  Threads threads(1);
  VerifyRequest request;
  request.target = &target;
  request.lock = &lock;
  const auto judge = [&](const std::string& bytes, bool as_model) {
    write_bytes(folder / "f.onnx", bytes);
    request.file = as_model ? std::filesystem::path(file) : folder / "f.onnx";
    request.against = as_model ? folder / "f.onnx" : std::filesystem::path(model);
    try {
      verify_file(request, threads);
    } catch (const Error& e) {
      CHECK((e.code() == Code::verification || e.code() == Code::input));
    }
  };
  const std::size_t head = good.rfind("head.matmul") == std::string::npos ? 0 : good.find("head.matmul") - 200;
  for (std::size_t i = 0; i < 1500; ++i) {  // attributes, names and shapes lie here
    std::string bad = good;
    const std::size_t at = i < 1000 ? (head + i) % good.size() : good.size() - 1 - (i - 1000);
    bad[at] = static_cast<char>(bad[at] ^ (i % 2 ? 0xff : 0x11));
    judge(bad, false);
  }
  const std::string before = bytes_of(model);
  for (std::size_t i = 0; i < 400; ++i) {
    std::string bad = before;
    const std::size_t at = i < 200 ? i : before.size() - 1 - (i - 200);
    bad[at] = static_cast<char>(bad[at] ^ (i % 2 ? 0xff : 0x11));
    judge(bad, true);
  }
}

// SPDX-License-Identifier: Apache-2.0
// The command imatrix, and its files as knobs of quantize.
#include "formats/file/imatrix.h"

#include "formats/base/json.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::string collect(const std::string& output, const std::vector<std::string>& more = {}) {
  std::vector<std::string> words{
      "imatrix", sample_model("digits_transformer"), "--calib", sample_data("digits_calib"), "-o", output};
  words.insert(words.end(), more.begin(), more.end());
  const Outcome done = run_qtool(words);
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  return done.out;
}

}  // namespace

TEST_CASE("imatrix writes both kinds, with the same bytes for any number of threads") {
  const ScratchFolder folder;
  const std::string a = folder / "a.gguf", b = folder / "b.gguf", old = folder / "a.dat";
  const Json report = Json::parse(collect(a, {"--json", "-", "--threads", "1"}), "stdout");
  CHECK(*report.find("schema") == Json("qtool.imatrix/1"));
  CHECK(report.find("entries")->as_array().size() == 20);
  collect(b, {"--threads", "2", "--cache-dir", folder / "cache"});
  CHECK(bytes_of(a) == bytes_of(b));
  collect(b, {"--cache-dir", folder / "cache"});  // from the cache
  CHECK(bytes_of(a) == bytes_of(b));
  collect(old);
  const Imatrix now = read_imatrix(a), then = read_imatrix(old);
  CHECK(now.datasets == std::vector<std::string>{"digits_calib.npz"});
  CHECK(now.chunks == 200);
  CHECK(now.chunk_size == 8);
  for (const Imatrix::Entry& e : now.entries) {
    REQUIRE(then.find(e.name) != nullptr);
    const auto means = e.means(), theirs = then.find(e.name)->means();
    REQUIRE(means.size() == theirs.size());
    for (std::size_t i = 0; i < means.size(); ++i) CHECK(theirs[i] == doctest::Approx(means[i]).epsilon(1e-6));
  }
}

TEST_CASE("quantize takes the file in place of data, found from the folder of the recipe") {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder / "sub");
  collect(folder / "sub/m.gguf");
  write_bytes(folder / "sub/mine.yaml", R"(version: 1
target: ort-cpu
steps:
  - fold_constants
  - assign_formats: {method: weights, weights: uint4, grain: groups, group: 32, symmetric: false}
  - gptq: {importance: m.gguf}
)");
  const Outcome done = run_qtool(
      {"quantize", sample_model("digits_transformer"), "--recipe", folder / "sub/mine.yaml", "-o", folder / "a.onnx"});
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  CHECK(bytes_of(folder / "a.onnx.lock").find("importance=sha256:") != std::string::npos);
  std::filesystem::rename(folder / "sub/m.gguf", folder / "sub/n.gguf");
  check_fails(
      {"quantize", sample_model("digits_transformer"), "--recipe", folder / "sub/mine.yaml", "-o", folder / "b.onnx"},
      2, {"mine.yaml:6:24: \"importance\" in step \"gptq\" must be a file that is there"});
}

TEST_CASE("imatrix refuses other endings before it runs the model") {
  const ScratchFolder folder;
  check_fails({"imatrix", sample_model("digits_cnn"), "--calib", sample_data("digits_calib"), "-o", folder / "m.onnx"},
              2, {"an importance matrix is FILE.gguf or FILE.dat"});
  CHECK(listing(folder.path()).empty());
}

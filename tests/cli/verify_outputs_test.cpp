// SPDX-License-Identifier: Apache-2.0
// The error that codes make in what their product puts out: in the lock as two runs of the whole product tell it, and
// derived again from the written file.
#include <cmath>

#include "backends/backend.h"
#include "calib/data.h"
#include "calib/executor.h"
#include "formats/base/json.h"
#include "formats/base/rng.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "formats/lock.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// A product with 8 rows of outputs or fewer, so that all of them count.
struct Product {
  const char* text;
  Shape weight;
};

const std::vector<Product>& products() {
  static const std::vector<Product> all{
      {R"(<ir_version: 8, opset_import: ["" : 17]> g (float[1,6,5,7] x) => (float[1,8,2,4] y) <float[1] w = {0}>
          { y = Conv <group = 2, strides = [2, 2], pads = [0, 1, 1, 1]> (x, w) })",
       {8, 3, 3, 3}},
      {R"(<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,2,4] x) => (float[1,8,2,4] y) <float[1] w = {0}>
          { y = Conv <group = 8, dilations = [2, 2], pads = [2, 2, 2, 2]> (x, w) })",
       {8, 1, 3, 3}},
      {R"(<ir_version: 8, opset_import: ["" : 17]> g (float[4,20] x) => (float[4,9] y) <float[1] w = {0}>
          { y = Gemm <transB = 1> (x, w) })",
       {9, 20}},
      {R"(<ir_version: 8, opset_import: ["" : 17]> g (float[2,4,20] x) => (float[2,4,9] y) <float[1] w = {0}>
          { y = MatMul (x, w) })",
       {20, 9}},
  };
  return all;
}

Graph model_of(const Product& p) {
  Graph g = parse_graph(p.text);
  Tensor t(DType::f32, p.weight);
  Rng rng(3, "verify outputs", "w");
  std::uint64_t at = 0;
  for (float& v : t.write<float>()) v = static_cast<float>(rng.normal(at++));
  Value& value = g[*g.find_value("w")];
  value.type.shape = p.weight;
  value.data = std::move(t);
  return g;
}

std::vector<std::string> quantize(const std::string& model, const std::string& file, const std::string& data) {
  return {"quantize", model, "--recipe", "int8_static",   "-o", file, "--quiet",
          "--calib",  data,  "--set",    "data.samples=1"};
}

/// From codes and scales as they stand in the file, one scale per output channel.
Tensor weight_in(const Graph& written, const Shape& shape, bool out_first) {
  const Tensor& codes = written[*written.find_value("w_quantized")].data;
  const auto scale = written[*written.find_value("w_scale")].data.read<float>();
  Tensor w(DType::f32, shape);
  const auto to = w.write<float>();
  const auto from = codes.read<std::int8_t>();
  REQUIRE(from.size() == to.size());
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i] = static_cast<float>(from[i]) * scale[out_first ? i / (to.size() / scale.size()) : i % scale.size()];
  }
  return w;
}

std::vector<std::string> as_json(std::vector<std::string> words) {
  words.insert(words.end(), {"--json", "-"});
  return words;
}

std::vector<std::string> verify(const std::string& file, const std::string& model, const std::string& lock,
                                const std::string& data) {
  return {"verify", file, "--against", model, "--lock", lock, "--calib", data};
}

/// The lock with `add` more in the first error of outputs.
std::string changed(const std::string& lock, double add) {
  const std::string key = "\"output_db\":";
  const auto at = lock.find(key) + key.size();
  const auto end = lock.find_first_of(",}", at);
  return lock.substr(0, at) + std::to_string(std::stod(lock.substr(at, end - at)) + add) + lock.substr(end);
}

}  // namespace

TEST_CASE("errors of outputs in the lock are those of the product run with both weights") {
  for (const Product& p : products()) {
    CAPTURE(p.text);
    const ScratchFolder folder;
    const std::string model = (folder / "m.onnx").string(), file = (folder / "q.onnx").string();
    const Graph g = model_of(p);
    write_onnx(g, model);
    const Outcome done = run_qtool(quantize(model, file, "random"));
    CAPTURE(done.err);
    REQUIRE(done.code == 0);
    const Lock lock = read_lock(file + ".lock");
    CHECK(lock.outputs_sha256 == lock.calibration_sha256);
    Graph coded = g;
    coded[*coded.find_value("w")].data = weight_in(read_onnx(file), p.weight, p.weight.back() != 9);
    DataOptions options;
    options.path = "random";
    options.samples = 1;
    const Feeds feeds = open_dataset(g, options)->feeds(0);
    Threads threads(1);
    const Tensor y = Executor(g, Reading::reference, threads).run(feeds).at(0),
                 z = Executor(coded, Reading::reference, threads).run(feeds).at(0);
    double signal = 0, noise = 0;
    for (std::size_t i = 0; i < y.read<float>().size(); ++i) {
      const auto a = static_cast<double>(y.read<float>()[i]), b = static_cast<double>(z.read<float>()[i]);
      signal += a * a;
      noise += (a - b) * (a - b);
    }
    int rows = 0;
    for (const LockedUse& use : lock.uses) {
      if (!use.output_db) continue;
      CHECK(*use.output_db == doctest::Approx(10 * std::log10(signal / noise)).epsilon(0.0002));
      ++rows;
    }
    CHECK(rows == 1);
    const Outcome again = run_qtool(as_json(verify(file, model, file + ".lock", "random")));
    CAPTURE(again.err);
    CHECK(again.code == 0);
    CHECK(*Json::parse(again.out, "stdout").find("compared")->find("outputs") == Json(1));
  }
}

TEST_CASE("verify: an error of outputs that is not that of the lock is a defect") {
  const ScratchFolder folder;
  const std::string model = sample_model("digits_cnn"), data = sample_data("digits_calib");
  const std::string file = (folder / "q.onnx").string(), lock = (folder / "changed.lock").string();
  REQUIRE(run_qtool(quantize(model, file, data)).code == 0);
  const Outcome clean = run_qtool(as_json(verify(file, model, file + ".lock", data)));
  CHECK(clean.code == 0);
  CHECK(*Json::parse(clean.out, "stdout").find("compared")->find("outputs") == Json(9));
  for (const double add : {1.0, -0.2, 0.1}) {
    write_bytes(lock, changed(bytes_of(file + ".lock"), add));
    const Outcome bad = run_qtool(as_json(verify(file, model, lock, data)));
    CAPTURE(add);
    CHECK(bad.code == 8);
    CHECK(bad.out.find("make in what it puts out is") != std::string::npos);
  }
}

TEST_CASE("verify: data other than those of the lock are refused, and so are data without a lock") {
  const ScratchFolder folder;
  const std::string model = sample_model("digits_cnn"), data = sample_data("digits_calib");
  const std::string file = (folder / "q.onnx").string();
  REQUIRE(run_qtool(quantize(model, file, data)).code == 0);
  check_fails(verify(file, model, file + ".lock", sample_data("digits_eval")), 5, {"not the data", "digits_eval"});
  check_fails({"verify", file, "--against", model, "--calib", data}, 2, {"--lock"});
  const std::string weights = (folder / "w.onnx").string();
  REQUIRE(run_qtool({"quantize", model, "--recipe", "int4_weights", "-o", weights, "--quiet"}).code == 0);
  check_fails(verify(weights, model, weights + ".lock", data), 5, {"tells no errors of outputs"});
}

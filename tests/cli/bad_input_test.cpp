// SPDX-License-Identifier: Apache-2.0
// Broken models, data and recipes: one error with place and code, nothing written, no crash. The broken files are made
// here, from small models in text and from the samples.
#include <cmath>

#include "calib/data/npz.h"
#include "formats/base/rng.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "tests/cli/program.h"
#include "tests/data_file.h"

using namespace qtool;
using namespace qtool::test;

namespace {

constexpr const char* tiny = R"(<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N, 4] x) => (float[N, 4] y)
< float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16} > {
  h = MatMul(x, w)
  y = Relu(h)
})";

Graph tiny_graph() {
  Graph g = parse_graph(tiny);
  const std::vector<NodeId> nodes = g.nodes();
  g[nodes[0]].name = "product";
  g[nodes[1]].name = "clamp";
  return g;
}

/// A folder with models and data, and a job that must fail without writing.
class Bench {
 public:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string model(const std::string& bytes) const {
    write_bytes(path("m.onnx"), bytes);
    return path("m.onnx");
  }
  std::string model(const Graph& graph) const { return model(write_onnx_bytes(graph)); }
  std::string data(const std::vector<std::pair<std::string, Tensor>>& arrays) const {
    write_npz(path("d.npz"), arrays);
    return path("d.npz");
  }
  std::string recipe(const std::string& yaml) const {
    write_bytes(path("r.yaml"), yaml);
    return path("r.yaml");
  }
  void refuses(const std::string& m, int code, std::initializer_list<std::string> parts,
               std::vector<std::string> more = {}, const std::string& r = "int8_weights") const {
    std::vector<std::string> words{"quantize", m, "--recipe", r, "-o", path("q.onnx")};
    words.insert(words.end(), more.begin(), more.end());
    check_fails(words, code, parts);
    CHECK(!std::filesystem::exists(path("q.onnx")));
  }

 private:
  ScratchFolder folder_;
};

Tensor ramp(Shape shape) {
  Tensor t(DType::f32, std::move(shape));
  float next = 0;
  for (float& v : t.write<float>()) v = next += 0.25F;
  return t;
}

}  // namespace

TEST_CASE("files that are no models") {
  const Bench bench;
  bench.refuses(bench.path("none.onnx"), 5, {"none.onnx", "No such file"});
  bench.refuses(bench.path(""), 5, {"is a folder"});
  bench.refuses(bench.model(std::string()), 5, {"m.onnx"});
  bench.refuses(bench.model("this is no model"), 5, {"m.onnx"});
  bench.refuses("/dev/zero", 5, {"not a regular file"});
}

TEST_CASE("truncated models") {
  const Bench bench;
  const std::string whole = write_onnx_bytes(tiny_graph());
  for (std::size_t n = 0; n < whole.size(); n += 7) bench.refuses(bench.model(whole.substr(0, n)), 5, {"m.onnx"});
  const std::string sample = bytes_of(sample_model("tiny_lstm"));
  bench.refuses(bench.model(sample.substr(0, sample.size() / 2)), 5, {"m.onnx"});
}

TEST_CASE("flipped bits give a model or an error, never a crash") {
  const Bench bench;
  const std::string whole = write_onnx_bytes(tiny_graph());
  const Rng rng(7, "flip");
  for (std::uint64_t i = 0; i < 60; ++i) {
    std::string broken = whole;
    const std::size_t at = rng.bits(2 * i) % broken.size();
    broken[at] = static_cast<char>(broken[at] ^ (1 << (rng.bits(2 * i + 1) % 8)));
    CAPTURE(at);
    const Outcome done =
        run_qtool({"quantize", bench.model(broken), "--recipe", "int8_weights", "-o", bench.path("q.onnx"), "--quiet"});
    CAPTURE(done.err);
    CHECK((done.code == 0 || done.code == 5));
    std::filesystem::remove(bench.path("q.onnx"));
  }
}

TEST_CASE("graphs that are none") {
  const Bench bench;
  // The writer refuses cycles, so one is made in the bytes: the first name in them is an input of the first node.
  Graph g = tiny_graph();
  g[*g.find_value("x")].name = "first";
  g[*g.find_value("y")].name = "final";
  std::string cyclic = write_onnx_bytes(g);
  cyclic.replace(cyclic.find("first"), 5, "final");
  bench.refuses(bench.model(cyclic), 5, {"cycle", "product"});
  Graph twice = tiny_graph();
  twice[*twice.find_value("h")].name = "y";
  bench.refuses(bench.model(twice), 5, {"\"y\""});
  Graph nothing = tiny_graph();
  nothing[*nothing.find_node("clamp")].inputs[0].value = nothing.add_value({"nowhere", {}, {}, {}});
  bench.refuses(bench.model(nothing), 5, {"nowhere"});
}

TEST_CASE("weights that are no numbers are named with their node") {
  const Bench bench;
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    Graph g = tiny_graph();
    g[*g.find_value("w")].data.write<float>()[5] = bad;
    bench.refuses(bench.model(g), 5,
                  {"the weight \"w\" of node \"product\" (MatMul) holds", bad > 0 ? "infinities" : "NaN"});
  }
}

TEST_CASE("layers that data say little about are written all the same, and what is missing is told") {
  const Bench bench;
  // A table that the head reads as well, and four tokens to choose its codes by.
  Graph g = parse_graph(R"(<ir_version: 10, opset_import: ["" : 21]>
tied (int64[N] ids) => (float[N, 64] y) < float[1] e = {1.0} > {
  x = Gather(e, ids)
  y = Gemm <transB = 1> (x, e)
})");
  for (const NodeId n : g.nodes()) g[n].name = g[n].op == "Gather" ? "table" : "head";
  Tensor table(DType::f32, {64, 32});
  const Rng rng(1, "table");
  std::uint64_t i = 0;
  for (float& v : table.write<float>()) v = static_cast<float>(rng.normal(i++));
  g[*g.find_value("e")].data = table;
  g[*g.find_value("e")].type.shape = table.shape();
  const std::int64_t some[] = {3, 1, 4, 1};
  const std::string data = bench.data({{"ids", Tensor::of<std::int64_t>({4}, some)}});
  const std::string recipe = bench.recipe(R"(version: 1
target: ort-cpu
data: {}
steps:
  - assign_formats: {method: weights, weights: uint4, grain: groups, group: 16, symmetric: false, embeddings: true}
  - gptq
  - round_nearest
)");
  const std::string model = bench.model(g), output = bench.path("q.onnx");
  const Outcome done = run_qtool({"quantize", model, "--recipe", recipe, "--calib", data, "-o", output});
  CHECK(done.code == 0);
  CHECK(done.err.find("\"head\" saw 4 rows of inputs for 32 weights each: give at least 128 to trust its codes") !=
        std::string::npos);
  CHECK(done.out.find("GatherBlockQuantized  table") != std::string::npos);
  CHECK(done.out.find("MatMulNBits           head") != std::string::npos);
  CHECK(run_qtool({"verify", output, "--against", model, "--lock", output + ".lock"}).code == 0);
}

TEST_CASE("external data that are missing, too short or elsewhere") {
  const Bench bench;
  OnnxWriteOptions outside;
  outside.external_above = 0;
  Graph g = tiny_graph();
  g[*g.find_value("w")].data = ramp({64, 64});
  g[*g.find_value("w")].type.shape = {64, 64};
  g[*g.find_value("x")].type.shape = {-1, 64};
  g[*g.find_value("h")].type.shape = {-1, 64};
  g[*g.find_value("y")].type.shape = {-1, 64};
  const std::string file = bench.path("m.onnx");
  write_onnx(g, file, outside);
  const std::filesystem::path data = test::data_file_beside(file);
  REQUIRE(!data.empty());
  const std::string inside = data.filename();
  CHECK(run_qtool({"quantize", file, "--recipe", "int8_weights", "-o", bench.path("q.onnx"), "--quiet"}).code == 0);
  std::filesystem::remove(bench.path("q.onnx"));
  std::filesystem::resize_file(data, 100);
  bench.refuses(file, 5, {"\"w\"", inside});
  std::filesystem::remove(data);
  bench.refuses(file, 5, {"\"w\"", "does not exist"});
  std::string bytes = bytes_of(file);
  std::string escaping = "../etc/";
  escaping.resize(inside.size(), 'd');  // of equal length
  bytes.replace(bytes.find(inside), inside.size(), escaping);
  bench.refuses(bench.model(bytes), 5, {"\"w\"", "leaves the folder of the model"});
}

TEST_CASE("operators and versions that nobody knows") {
  const Bench bench;
  const std::string data = bench.data({{"x", ramp({8, 4})}});
  Graph op = tiny_graph();
  op[*op.find_node("clamp")].op = "Frobnicate";
  bench.refuses(bench.model(op), 5, {"Frobnicate", "clamp"}, {"--calib", data});
  Graph far = tiny_graph();
  ModelInfo info = *far.model;
  info.opsets[""] = 99;
  far.model = std::make_shared<const ModelInfo>(info);
  bench.refuses(bench.model(far), 5, {"99"}, {"--calib", data});
}

TEST_CASE("extents of zero do no harm") {
  const Bench bench;
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
empty (float[2, 0] x, float[0, 4] w) => (float[2, 4] y) { y = MatMul(x, w) })");
  g[*g.find_value("w")].data = Tensor(DType::f32, {0, 4});
  g.inputs.pop_back();
  const Outcome done = run_qtool({"quantize", bench.model(g), "--recipe", "int8_weights", "-o", bench.path("q.onnx")});
  CAPTURE(done.err);
  CHECK((done.code == 0 || done.code == 5));
}

TEST_CASE("calibration data that do not fit") {
  const Bench bench;
  const std::string m = bench.model(tiny_graph());
  const auto refuses = [&](const std::string& data, std::initializer_list<std::string> parts) {
    bench.refuses(m, 7, parts, {"--calib", data}, "int8_static");
  };
  bench.refuses(m, 7, {"calibrate_ranges", "there are none"}, {}, "int8_static");
  refuses(bench.path("none.npz"), {"none.npz"});
  refuses(bench.data({{"z", ramp({8, 4})}}), {"\"x\""});
  refuses(bench.data({{"x", ramp({8, 5})}}), {"x", "5"});
  refuses(bench.data({{"x", ramp({0, 4})}}), {"there is no sample in it"});
  refuses(bench.data({{"x", Tensor(DType::i64, {8, 4})}}), {"x", "i64"});
  refuses(bench.data({}), {"d.npz"});
  write_bytes(bench.path("d.npz"), "PK not a zip");
  refuses(bench.path("d.npz"), {"d.npz"});
  const std::string whole = bytes_of(bench.data({{"x", ramp({8, 4})}}));
  write_bytes(bench.path("d.npz"), whole.substr(0, whole.size() / 2));
  refuses(bench.path("d.npz"), {"d.npz"});
  const std::string fine = bench.data({{"x", ramp({8, 4})}});
  bench.refuses(m, 7, {"9"}, {"--calib", fine, "--set", "data.samples=9"}, "int8_static");
}

TEST_CASE("recipes with mistakes") {
  const Bench bench;
  const std::string m = bench.model(tiny_graph());
  const auto refuses = [&](const std::string& yaml, std::initializer_list<std::string> parts) {
    bench.refuses(m, 2, parts, {}, bench.recipe(yaml));
  };
  const std::string head = "version: 1\ntarget: ort-cpu\nsteps:\n";
  refuses("version: 1\ntarget: ort-cpu\nstep: []\n", {"r.yaml:3:1: unknown key \"step\"", "did you mean \"steps\"?"});
  refuses(head + "  - round_neerest\n", {"r.yaml:4:5", "round_neerest", "round_nearest"});
  refuses(head + "  - round_nearest: {clipp: x}\n",
          {"r.yaml:4:21: unknown key \"clipp\" in step \"round_nearest\"; did you mean \"clip\"?"});
  refuses(head + "  - assign_formats: {group: many}\n", {"r.yaml:4:29: \"group\" in", "a whole number, not \"many\""});
  refuses(head + "  - assign_formats: {group: -1}\n", {"r.yaml:4:29: \"group\" in", "from 0 to"});
  refuses(head + "  - assign_formats: {group: 1, group: 2}\n", {"r.yaml:4:32: duplicate key \"group\""});
  refuses(head + "  - assign_formats\nemit: {from: qdq}\n", {"r.yaml:5:8: unknown key \"from\"", "\"form\""});
  refuses(head + "  - assign_formats\ndata: {pth: x}\n", {"r.yaml:5:8: unknown key \"pth\"", "\"path\""});
  refuses(head + "  - assign_formats\ndata: {image: {resise: 3}}\n", {"r.yaml:5:16: unknown key \"resise\""});
  refuses(head + "  - assign_formats\ngate: {kl: -1}\n", {"r.yaml:5:12: \"kl\" in \"gate\" must be"});
  refuses("version: 1\ntarget: ort-gpu\nsteps: [assign_formats]\n", {"unknown target \"ort-gpu\"", "\"ort-cpu\""});
  refuses("version: 1\ntarget: ort-cuda\nsteps:\n  - assign_formats: {method: static}\n",
          {"method static is not for ort-cuda", "fuses no int8 kernels", "use method weights"});
  bench.refuses(m, 2, {"method static is not for ort-cuda"}, {"--target", "ort-cuda"},
                bench.recipe(head + "  - assign_formats: {method: static}\nemit: {form: qdq}\n"));
  refuses("version: 1\nsteps: [assign_formats]\n", {"names no target"});
  refuses(head + "  - assign_formats\nrules:\n  - where: {name: prodct}\n    keep: float\n",
          {"r.yaml:6:12", "no node named \"prodct\"", "did you mean \"product\"?"});
  refuses(head + "  - fold_constants\nrules:\n  - where: {op: MatMul}\n    keep: float\n",
          {"r.yaml:6:5: no step of the recipe follows its rules", "assign_formats"});
  refuses(head + "  - round_nearest:\n    where: {op: Matmul}\n", {"r.yaml:5:12", "did you mean \"MatMul\"?"});
  refuses(head + "  - [\n", {"r.yaml:4:5", "is a bracket left open?"});
  refuses(head + "  - a: b: c\n", {"r.yaml:4:9: not valid YAML"});
}

TEST_CASE("paths in a recipe are seen from its folder") {
  const Bench bench;
  const std::string m = bench.model(tiny_graph());
  bench.data({{"x", ramp({8, 4})}});
  const std::string r = bench.recipe(
      "version: 1\ntarget: ort-cpu\ndata: {path: d.npz}\nsteps:\n  - assign_formats: {method: weights, weights: "
      "int8}\n  - round_nearest\n");
  const Outcome done = run_qtool({"quantize", m, "--recipe", r, "-o", bench.path("q.onnx"), "--json", "-"});
  CAPTURE(done.err);
  CHECK(done.code == 0);
  CHECK(done.out.find("\"compared_on\": \"calibration\"") != std::string::npos);
}

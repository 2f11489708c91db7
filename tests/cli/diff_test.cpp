// SPDX-License-Identifier: Apache-2.0
// The commands that compare: diff (two models), recipe diff, rebuild --check.
#include <unistd.h>

#include <cmath>

#include "formats/base/json.h"
#include "formats/file/reader.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

constexpr int different = 9;

Outcome quantize(const std::string& output, const std::string& recipe = "int8_static",
                 const std::vector<std::string>& more = {}, const std::string& model = sample_model("digits_cnn")) {
  std::vector<std::string> words{
      "quantize",       model, "--recipe", recipe, "-o", output, "--calib", sample_data("digits_calib"), "--set",
      "data.samples=32"};
  words.insert(words.end(), more.begin(), more.end());
  Outcome done = run_qtool(words);
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  return done;
}

Json difference(const std::string& a, const std::string& b, int code = different) {
  const Outcome done = run_qtool({"diff", a, b, "--json", "-"});
  CAPTURE(done.err);
  REQUIRE(done.code == code);
  return Json::parse(done.out, "stdout");
}

std::vector<Json> rows_at(const Json& diff, const std::string& node) {
  std::vector<Json> rows;
  for (const Json& row : diff.find("tensors")->as_array()) {
    if (*row.find("node") == Json(node)) rows.push_back(row);
  }
  return rows;
}

/// The model with one change, written beside it.
template <class F>
std::string changed(const std::string& model, const ScratchFolder& folder, const F& change) {
  Graph graph = read_onnx(model);
  change(graph);
  const std::string other = (folder / "changed.onnx").string();
  write_onnx(graph, other);
  return other;
}

template <class T>
T& element(Graph& graph, const std::string& name, std::size_t i) {
  const auto v = graph.find_value(name);
  REQUIRE_MESSAGE(v, name);
  return graph[*v].data.write<T>()[i];
}

}  // namespace

TEST_CASE("a model equals itself, and what it was read from") {
  const ScratchFolder folder;
  const std::string model = sample_model("digits_transformer");
  CHECK(run_qtool({"diff", model, model}).out == "the models are equal\n");
  const Json diff = difference(model, changed(model, folder, [](Graph&) {}), 0);
  CHECK(*diff.find("schema") == Json("qtool.model_diff/1"));
  CHECK(*diff.find("equal") == Json(true));
}

TEST_CASE("diff tells the codes, scales, attributes and nodes that were changed, and nothing else") {
  const ScratchFolder folder;
  const std::string model = (folder / "q.onnx").string();
  quantize(model);
  const float scale = [&] {
    Graph graph = read_onnx(model);
    return element<float>(graph, "head.logits.weight_scale", 0);
  }();
  const Json codes = difference(model, changed(model, folder, [](Graph& g) {
                                  element<std::int8_t>(g, "head.logits.weight_quantized", 0) ^= 3;
                                  element<std::int8_t>(g, "head.logits.weight_quantized", 10) ^= 1;
                                }));
  REQUIRE(codes.find("tensors")->as_array().size() == 1);
  const Json& row = codes.find("tensors")->as_array()[0];
  CHECK(*row.find("node") == Json("head.logits"));
  CHECK(*row.find("input") == Json(1));
  CHECK(*row.find("codes_differ") == Json(2));
  CHECK(*row.find("elements") == Json(640));
  CHECK(*row.find("scales_differ") == Json(0));
  const double steps = row.find("largest_difference")->as_number() / static_cast<double>(scale);
  CHECK(std::fabs(steps - std::nearbyint(steps)) < 1e-4);  // codes 0 and 10 lie in one column: whole steps of its scale
  CHECK(codes.find("nodes")->as_array().empty());
  CHECK(codes.find("header")->as_array().empty());

  const Json scales = difference(
      model, changed(model, folder, [](Graph& g) { element<float>(g, "head.logits.weight_scale", 3) *= 2; }));
  REQUIRE(rows_at(scales, "head.logits").size() == 1);
  CHECK(*rows_at(scales, "head.logits")[0].find("scales_differ") == Json(1));
  CHECK(*rows_at(scales, "head.logits")[0].find("codes_differ") == Json(0));

  const Json more = difference(model, changed(model, folder, [](Graph& g) {
                                 const NodeId conv = *g.find_node("stem.conv");
                                 g[conv].attrs.set("pads", std::vector<std::int64_t>{1, 1, 1, 2});
                                 ModelInfo info = *g.model;
                                 info.metadata.clear();
                                 g.model = std::make_shared<const ModelInfo>(info);
                               }));
  CHECK(more.find("tensors")->as_array().empty());
  CHECK(more.find("nodes")->as_array().at(0).find("attributes")->as_array().at(0) == Json("pads"));
  CHECK(more.find("header")->as_array().size() == read_onnx(model).model->metadata.size());
}

TEST_CASE("a float model is held against what was made of it, whatever the form") {
  const ScratchFolder folder;
  const std::string model = sample_model("digits_cnn");
  const std::string qdq = (folder / "qdq.onnx").string(), operators = (folder / "operators.onnx").string();
  quantize(qdq);
  quantize(operators, "int8_static", {"--set", "emit.form=qoperator"});
  const Json diff = difference(model, qdq);
  // No normalization precedes the last layers: their weights are off by half a step at most.
  const Json weight = rows_at(diff, "head.logits").at(1);
  CHECK(*weight.find("a")->find("format") == Json("f32"));
  CHECK(*weight.find("b")->find("format") == Json("i8"));
  CHECK(weight.find("largest_difference")->as_number() <= weight.find("largest_value")->as_number() / 127 / 2 * 1.0001);
  int removed = 0;
  for (const Json& node : diff.find("nodes")->as_array()) removed += *node.find("what") == Json("removed");
  CHECK(removed == 7);  // the normalizations
  // Pairs or operators on codes: the same weights.
  const Json forms = difference(qdq, operators);
  for (const Json& row : forms.find("tensors")->as_array()) {
    CAPTURE(row.dump());
    CHECK(*row.find("codes_differ") != Json(1));
    if (const Json& d = *row.find("largest_difference"); d.is_number()) CHECK(d.as_number() == 0);
  }
}

TEST_CASE("blocks of MatMulNBits are seen as the weight of a MatMul") {
  const ScratchFolder folder;
  const std::string model = sample_model("digits_transformer"), output = (folder / "q.onnx").string();
  quantize(output, "int4_weights", {"--set", "round_nearest.clip=minmax"}, model);
  int weights = 0;
  const Json diff = difference(model, output);
  for (const Json& row : diff.find("tensors")->as_array()) {
    if (row.find("b")->is_null() || *row.find("b")->find("format") != Json("4 bits")) continue;
    CAPTURE(row.dump());
    ++weights;
    // Symmetric int4, range of a block: the step is its largest magnitude / 7, the error half of that.
    CHECK(row.find("largest_difference")->as_number() <= row.find("largest_value")->as_number() / 7 / 2 * 1.001);
    CHECK(row.find("largest_difference")->as_number() > 0);
  }
  CHECK(weights > 5);
}

TEST_CASE("recipe diff resolves defaults and names steps, rules, knobs and order") {
  const ScratchFolder folder;
  const auto file = [&](const std::string& name, const std::string& text) {
    const std::string path = (folder / name).string();
    write_bytes(path, "version: 1\nsummary: s\ntarget: ort-cpu\n" + text);
    return path;
  };
  const std::string a = file("a.yaml",
                             "steps:\n  - assign_formats: {method: weights}\n    id: main\n  - round_nearest\n"
                             "rules:\n  - where: {op: Conv}\n    keep: float\n");
  const std::string same =
      file("same.yaml",
           "steps:\n  - assign_formats: {method: weights, group: 0, symmetric: true}\n    id: main\n"
           "  - round_nearest: {clip: minmax}\nrules:\n  - where: {op: [Conv]}\n    keep: float\n");
  const std::string b =
      file("b.yaml",
           "data: {samples: 20, image: {resize: 32}}\nsteps:\n  - fold_constants\n"
           "  - round_nearest: {clip: mse}\n  - assign_formats: {method: weights, group: 64}\n    id: main\n"
           "gate: {size_ratio: 0.5}\n");
  const Outcome equal = run_qtool({"recipe", "diff", a, same});
  CHECK(equal.code == 0);
  CHECK(equal.out == "the recipes say the same\n");
  const Outcome done = run_qtool({"recipe", "diff", a, b, "--json", "-"});
  CHECK(done.code == different);
  const Json diff = Json::parse(done.out, "stdout");
  CHECK(*diff.find("schema") == Json("qtool.recipe_diff/1"));
  std::vector<std::string> rows;
  for (const Json& row : diff.find("differences")->as_array()) {
    rows.push_back(row.find("section")->as_string() + "/" + row.find("key")->as_string() + " " + row.find("a")->dump() +
                   " " + row.find("b")->dump());
  }
  CHECK(rows == std::vector<std::string>{"step main/group 0 64", "step round_nearest/clip \"minmax\" \"mse\"",
                                         "rule 1/where {\"op\": [\"Conv\"]} null", "data/samples 0 20",
                                         "data/image.resize 0 32", "gate/size_ratio null 0.5",
                                         "step fold_constants/pass null \"fold_constants\"",
                                         "steps/order [\"main\", \"round_nearest\"] [\"round_nearest\", \"main\"]"});
  CHECK(run_qtool({"recipe", "diff", "int8_static", "int8_static", "--set", "bias_correct.samples=8"})
            .out.find("samples  16  8") != std::string::npos);
  check_fails({"recipe", "diff", "int8_static"}, 2, {"needs two recipes"});
  check_fails({"recipe", "diff", "int8_static", "int8_statik"}, 2, {"int8_static"});
}

TEST_CASE("rebuild makes the same bytes from what the manifest names, and says which input is another") {
  const ScratchFolder folder, elsewhere;
  const std::string output = (folder / "q.onnx").string(), model = sample_model("digits_cnn");
  quantize(output, "int8_static", {"--seed", "5"});
  const std::vector<std::string> words{"rebuild", "--check", output, "--calib", sample_data("digits_calib")};
  const auto with = [&](std::initializer_list<std::string> more) {
    std::vector<std::string> all = words;
    all.insert(all.end(), more);
    return all;
  };
  Setup there;
  there.environment = {"TMPDIR=" + elsewhere.path().string()};
  const Outcome done = run_qtool(with({"--model", model, "--threads", "2"}), there);
  CAPTURE(done.err);
  CHECK(done.code == 0);
  CHECK(done.out == "the same bytes as " + output + "\n");
  CHECK(listing(elsewhere.path()).empty());
  CHECK(listing(folder.path()) == std::vector<std::string>{"q.onnx", "q.onnx.lock", "q.onnx.manifest.json"});

  check_fails(words, 5, {"digits_cnn.onnx"});  // it does not lie beside the manifest
  const std::string other =
      changed(model, folder, [](Graph& g) { element<float>(g, "head.logits.weight", 0) += 0.5F; });
  check_fails(with({"--model", other}), different, {"not what the manifest names: the model"});
  check_fails(with({"--model", model, "--recipe", "int8_fast"}), different,
              {"not what the manifest names: the recipe"});
  check_fails(
      {"rebuild", "--check", output + ".manifest.json", "--model", model, "--calib", sample_data("digits_eval")},
      different, {"not what the manifest names: the calibration data"});
  check_fails({"rebuild", "--check", output, "--model", model}, different, {"the calibration data (none given)"});

  // Another file beside the manifest, and facts of another machine.
  std::string bytes = bytes_of(output), manifest = bytes_of(output + ".manifest.json");
  bytes[bytes.size() / 2] ^= 1;
  write_bytes(output, bytes);
  const Outcome spoilt = run_qtool(with({"--model", model}));
  CHECK(spoilt.code == different);
  CHECK(spoilt.out.find("q.onnx was changed after its manifest was written") != std::string::npos);
  const auto replace = [&](const std::string& from, const std::string& to) {
    const std::size_t at = manifest.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, from);
    manifest.replace(at, from.size(), to);
    write_bytes(output + ".manifest.json", manifest);
  };
  replace("\"instruction_set\": \"", "\"instruction_set\": \"mmx ");
  const Json files = Json::parse(manifest, "manifest").find("files")->as_array().at(0);
  replace(files.find("sha256")->as_string(), std::string(64, 'a'));
  const Outcome otherwise = run_qtool(with({"--model", model, "--json", "-"}));
  CHECK(otherwise.code == different);
  const Json report = Json::parse(otherwise.out, "stdout");
  CHECK(*report.find("schema") == Json("qtool.rebuild/1"));
  CHECK(*report.find("equal") == Json(false));
  CHECK(*report.find("files")->as_array().at(0).find("what") == Json("q.onnx"));
  CHECK(*report.find("machine")->as_array().at(0).find("what") == Json("instruction_set"));
  replace("qtool.manifest/1", "qtool.manifest/2");
  check_fails(with({"--model", model}), 5, {"its schema is qtool.manifest/2, newer than qtool.manifest/1"});
  replace("qtool.manifest/2", "qtool.manifest/0");
  check_fails(with({"--model", model}), 5, {"qtool.manifest/0, older than", "quantize the model again"});
}

TEST_CASE("no manifest and no lock tells where, by whom or on which machine") {
  const ScratchFolder folder;
  const std::string output = (folder / "q.onnx").string();
  const std::string model = (folder / "secret_place.onnx").string(), data = (folder / "secret_data.npz").string();
  std::filesystem::copy_file(sample_model("digits_cnn"), model);
  std::filesystem::copy_file(sample_data("digits_calib"), data);
  const std::vector<std::string> words{"quantize", model, "--recipe", "int8_static", "-o", output};
  std::vector<std::string> by_option = words, by_set = words;
  by_option.insert(by_option.end(), {"--calib", data});
  by_set.insert(by_set.end(), {"--set", "data.path=" + data});
  Setup me;
  me.environment = {"USER=somebody_special", "LOGNAME=somebody_special", "HOSTNAME=host_special"};
  REQUIRE(run_qtool(by_option, me).code == 0);
  const std::string bytes = bytes_of(output);
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  const auto clean = [&] {
    for (const char* ending : {".manifest.json", ".lock"}) {
      const std::string text = bytes_of(output + ending);
      for (const std::string& word :
           {folder.path().string(), std::string("somebody_special"), std::string("host_special"),
            std::string("secret_data"), std::string("\"/"), std::string("\"") + host + "\""}) {
        CHECK_MESSAGE(text.find(word) == std::string::npos, ending << " has " << word);
      }
    }
  };
  clean();
  REQUIRE(run_qtool(by_set, me).code == 0);
  clean();
  CHECK(bytes_of(output) == bytes);  // where the data lie is no part of the job
}

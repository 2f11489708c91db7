// SPDX-License-Identifier: Apache-2.0
// Real models, cleaned by the folding passes, still give the answers that ONNX Runtime wrote down.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "calib/executor.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"
#include "passes/probe.h"
#include "tests/property/fold.h"
#include "tests/support.h"

using namespace qtool;
namespace fs = std::filesystem;

namespace {

/// Large pictures through many channels: seconds each. QTOOL_MODEL=part of a name runs exactly those that match.
bool is_slow(const fs::path& model) {
  for (const char* name : {"dnsmos", "deeplab", "fns_candy", "pan_mobilenetv3", "sinet", "squeezenet_fp16", "yolox",
                           "super_resolution", "espcn"}) {
    if (model.filename().string().starts_with(name)) return true;
  }
  return false;
}

DType dtype_of(const std::string& name) {
  const std::pair<const char*, DType> names[] = {
      {"float32", DType::f32}, {"float16", DType::f16}, {"float64", DType::f64}, {"int64", DType::i64},
      {"int32", DType::i32},   {"uint8", DType::u8},    {"int8", DType::i8},     {"bool", DType::boolean}};
  for (const auto& [word, dtype] : names) {
    if (name == word) return dtype;
  }
  throw Error(Code::input, "a reference file names the type " + name);
}

struct Reference {
  std::string kind, name;
  Tensor tensor;  // outputs: flat, thinned by stride
  std::int64_t stride = 1;
};

std::vector<Reference> read_references(const fs::path& json) {
  const Json root = Json::parse(read_text(json), json.string());
  const MappedFile bin(fs::path(json).replace_extension(".bin"));
  std::vector<Reference> all;
  for (const Json& t : root.find("tensors")->as_array()) {
    Reference r{t.find("kind")->as_string(), t.find("name")->as_string(), {}, 1};
    if (const Json* stride = t.find("flat_stride")) r.stride = stride->as_integer();
    const DType dtype = dtype_of(t.find("dtype")->as_string());
    const Json* stored = t.find("stored_dtype");
    const DType held = stored ? dtype_of(stored->as_string()) : dtype;
    Shape shape;
    for (const Json& n : t.find("shape")->as_array()) shape.push_back(n.as_integer());
    if (r.kind != "input") shape = {(element_count(shape) + r.stride - 1) / r.stride};
    Tensor data(held, shape);
    const auto from = bin.bytes().subspan(static_cast<std::size_t>(t.find("offset")->as_integer()),
                                          static_cast<std::size_t>(t.find("bytes")->as_integer()));
    const auto to = data.write_bytes();
    REQUIRE(from.size() == to.size());
    std::memcpy(to.data(), from.data(), to.size());
    r.tensor = held == dtype ? data : from_f32(to_f32(data), dtype);
    all.push_back(std::move(r));
  }
  return all;
}

Tensor thinned(const Tensor& t, std::int64_t stride) {
  const std::size_t width = static_cast<std::size_t>(bit_width(t.dtype())) / 8;
  Tensor out(t.dtype(), {(t.count() + stride - 1) / stride});
  const auto to = out.write_bytes();
  for (std::size_t i = 0; i * width < to.size(); ++i) {
    std::memcpy(to.data() + i * width, t.bytes().data() + i * static_cast<std::size_t>(stride) * width, width);
  }
  return out;
}

/// Why the model does not run as it is; empty when it does.
std::string objection(const fs::path& model) {
  try {
    Threads threads(1);
    const Graph graph = read_model(model);
    const Executor executor(graph, Reading::reference, threads);
    return {};
  } catch (const Error& e) {
    return e.what();
  }
}

/// The worst distance of an output from the reference, before (of the file as it is) and after folding.
std::pair<double, double> distances(const fs::path& model, const fs::path& json, std::string& counts) {
  Threads threads;
  Journal journal;
  const Graph before = read_model(model);
  Graph after = before;
  test::fold(after, journal, threads);
  counts = std::to_string(before.nodes().size()) + " -> " + std::to_string(after.nodes().size()) + " nodes";
  const auto references = read_references(json);
  const auto worst = [&](const Graph& g) {
    Feeds feeds;
    for (const Reference& r : references) {
      if (r.kind == "input") feeds[*g.find_value(r.name)] = r.tensor;
    }
    const auto outputs = Executor(g, Reading::reference, threads).run(feeds);
    double distance = 0;
    for (const Reference& r : references) {
      if (r.kind != "output") continue;
      for (std::size_t i = 0; i < g.outputs.size(); ++i) {
        if (g[g.outputs[i].value].name != r.name) continue;
        distance = std::max(distance, relative_distance(r.tensor, thinned(outputs[i], r.stride)));
      }
    }
    return distance;
  };
  return {worst(before), worst(after)};
}

}  // namespace

TEST_CASE("models: folded real models still give the reference outputs") {
  const fs::path data = test::data_dir();
  if (data.empty()) return test::skip("folded real models", "no model folder");
  std::vector<fs::path> references;
  for (const auto& entry : fs::recursive_directory_iterator(data / "models")) {
    if (entry.path().string().ends_with(".ref.json")) references.push_back(entry.path());
  }
  std::sort(references.begin(), references.end());
  for (const fs::path& json : references) {
    const std::string stem = json.string().substr(0, json.string().size() - std::string(".ref.json").size());
    const fs::path model = stem + ".onnx";
    const char* only = std::getenv("QTOOL_MODEL");
    if (only ? model.string().find(only) == std::string::npos : is_slow(model)) continue;
    INFO(model.filename().string());
    if (const std::string why = objection(model); !why.empty()) {
      test::skip(model.filename().string(), why);
      continue;
    }
    std::string counts;
    try {
      const auto [before, after] = distances(model, json, counts);
      MESSAGE(model.filename().string(), ": ", counts, ", distance ", before, " -> ", after);
      // Half precision models are as far from the reference as their format makes them, folded or not.
      CHECK(after < std::max(1e-4, 2 * before));
    } catch (const Error& e) {
      FAIL_CHECK(std::string(e.what()));
    }
  }
}

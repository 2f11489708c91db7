// SPDX-License-Identifier: Apache-2.0
// Real models beside what ONNX Runtime answered (../shared/data, "Reference files"): outputs agree to 1e-4 of their
// range, integers and truth values exactly. Files in odd/ are refused with the sentence that the ledger names.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/cpu.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/file/reader.h"
#include "tests/conformance/ledger.h"
#include "tests/support.h"

namespace qtool::test {
namespace {

namespace fs = std::filesystem;

DType dtype_named(const std::string& name) {
  const std::pair<const char*, DType> names[] = {
      {"float32", DType::f32}, {"float64", DType::f64}, {"float16", DType::f16}, {"int8", DType::i8},
      {"uint8", DType::u8},    {"int16", DType::i16},   {"uint16", DType::u16},  {"int32", DType::i32},
      {"int64", DType::i64},   {"bool", DType::boolean}};
  for (const auto& [known, dtype] : names) {
    if (name == known) return dtype;
  }
  throw Error(Code::input, "a reference file has the type " + name);
}

struct Reference {
  std::string name;
  bool input = false;
  Tensor data;  // thinned outputs: flat
  std::int64_t stride = 1;
  Shape shape;
};

std::vector<Reference> read_reference(const fs::path& json, const fs::path& bin) {
  const Json file = Json::parse(read_text(json), json.string());
  const MappedFile data(bin);
  std::vector<Reference> result;
  for (const Json& t : file.find("tensors")->as_array()) {
    Reference r;
    r.name = t.find("name")->as_string();
    r.input = t.find("kind")->as_string() == "input";
    for (const Json& d : t.find("shape")->as_array()) r.shape.push_back(d.as_integer());
    if (const Json* stride = t.find("flat_stride")) r.stride = stride->as_integer();
    const DType dtype = dtype_named(t.find("dtype")->as_string());
    const Json* stored = t.find("stored_dtype");
    const DType stored_dtype = stored ? dtype_named(stored->as_string()) : dtype;
    const auto bytes = static_cast<std::size_t>(t.find("bytes")->as_integer());
    const auto offset = static_cast<std::size_t>(t.find("offset")->as_integer());
    const Shape shape = r.stride == 1 ? r.shape : Shape{static_cast<std::int64_t>(bytes) * 8 / bit_width(stored_dtype)};
    r.data = Tensor(stored_dtype, shape);
    REQUIRE(r.data.size_bytes() == bytes);
    if (bytes > 0) std::memcpy(r.data.write_bytes().data(), data.bytes().subspan(offset, bytes).data(), bytes);
    if (stored_dtype != dtype) r.data = from_f32(to_f32(r.data), dtype);
    result.push_back(std::move(r));
  }
  return result;
}

/// Largest difference as a share of the reference's range.
std::optional<std::string> compare(const Tensor& got, const Reference& want) {
  if (got.shape() != want.shape) return "shape " + to_string(got.shape()) + " instead of " + to_string(want.shape);
  if (got.dtype() != want.data.dtype()) return "type " + std::string(name_of(got.dtype()));
  if (!is_float(got.dtype())) {
    const auto a = to_int64s(got), b = to_int64s(want.data);
    for (std::size_t i = 0; i < b.size(); ++i) {
      if (a[i * static_cast<std::size_t>(want.stride)] != b[i]) return "element " + std::to_string(i) + " differs";
    }
    return std::nullopt;
  }
  const Tensor a32 = to_f32(got), b32 = to_f32(want.data);
  const auto a = a32.read<float>(), b = b32.read<float>();
  double low = std::numeric_limits<double>::infinity(), high = -low, worst = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double x = static_cast<double>(a[i * static_cast<std::size_t>(want.stride)]), y = static_cast<double>(b[i]);
    low = std::min(low, y);
    high = std::max(high, y);
    if (std::isnan(x) != std::isnan(y)) return "element " + std::to_string(i) + " is not a number on one side";
    if (!std::isnan(x) && x != y) worst = std::max(worst, std::abs(x - y));
  }
  const double range = high > low ? high - low : std::max(std::abs(high), 1e-30);
  // float16 has 11 bits: ONNX Runtime rounds after every operator, as this executor does, but sums differently.
  const double allowed = got.dtype() == DType::f16 ? 2e-3 : 1e-4;
  if (worst <= allowed * range) return std::nullopt;
  return "off by " + std::to_string(worst / range) + " of the range " + std::to_string(range);
}

std::optional<std::string> run_model(const fs::path& file, Threads& threads) {
  try {
    const Graph graph = read_onnx(file);
    const Executor executor(graph, Reading::reference, threads);
    fs::path json = file, bin = file;
    const auto references = read_reference(json.replace_extension(".ref.json"), bin.replace_extension(".ref.bin"));
    Feeds feeds;
    for (const Reference& r : references) {
      if (!r.input) continue;
      const auto v = graph.find_value(r.name);
      if (!v) return "there is no input " + r.name;
      feeds.emplace(*v, r.data);
    }
    const std::vector<Tensor> results = executor.run(feeds);
    for (const Reference& r : references) {
      if (r.input) continue;
      bool found = false;
      for (std::size_t i = 0; i < graph.outputs.size(); ++i) {
        if (graph[graph.outputs[i].value].name != r.name) continue;
        found = true;
        if (auto wrong = compare(results[i], r)) return "output \"" + r.name + "\": " + *wrong;
      }
      if (!found) return "there is no output " + r.name;
    }
    return std::nullopt;
  } catch (const Error& e) {
    return std::string(e.what());
  }
}

std::vector<fs::path> models_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".onnx") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("real models answer as in ONNX Runtime") {
  const fs::path data = data_dir();
  if (data.empty()) return skip("real models", "../shared/data is absent");
  Ledger ledger("models");
  Threads threads(0, &best_integer_kernels());  // as the program does
  for (const fs::path& file : models_in(data / "models")) {
    if (file.parent_path().filename() == "odd") continue;
    ledger.report("models/" + file.filename().string(), run_model(file, threads));
  }
  std::printf("models: %d agree, %d are excused by the ledger\n", ledger.passed(), ledger.excused());
}

TEST_CASE("odd files are refused in the words that the ledger names") {
  const fs::path data = data_dir();
  if (data.empty()) return skip("odd models", "../shared/data is absent");
  const Ledger ledger("models");
  Threads threads(0, &best_integer_kernels());  // as the program does
  for (const fs::path& file : models_in(data / "models" / "odd")) {
    const std::string expected = ledger.reason("odd/" + file.filename().string());
    const auto said = run_model(file, threads);
    CAPTURE(file.filename().string());
    CAPTURE(said.value_or("nothing"));
    CHECK(!expected.empty());
    CHECK(said.value_or("").find(expected) != std::string::npos);
  }
}

}  // namespace qtool::test

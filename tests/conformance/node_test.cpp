// SPDX-License-Identifier: Apache-2.0
// The cases that ONNX ships: a model, inputs and the outputs of ONNX's own reference, per operator and small model.
// Twice: those of Debian's libonnx-testdata, and those that the pinned onnx wheel computes. Tolerances are those of
// ONNX's runner (onnx/backend/test/runner): rtol 1e-3, or 2^-6 for bfloat16; atol 1e-7.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "backends/cpu/cpu.h"
#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"
#include "tests/conformance/ledger.h"
#include "tests/support.h"

namespace qtool::test {
namespace {

namespace fs = std::filesystem;

/// The part of the cases in scope (ledger.h) that must conform.
constexpr double wanted_share = 0.97;

Tensor tensor_of(const fs::path& file) { return read_tensor_proto(MappedFile(file).bytes(), file.string()); }

/// ONNX of this age wrote bfloat16 data as uint16.
Tensor as_declared(Tensor t, const Graph& graph, ValueId v) {
  const Type& type = graph[v].type;
  return type.known_dtype && type.dtype == DType::bf16 && t.dtype() == DType::u16 ? t.viewed_as(DType::bf16) : t;
}

/// The model with its operator set raised to 7, the oldest that is read. What these cases use means the same there,
/// but for broadcasting, which 7 does without attributes.
Graph read_case(const fs::path& file) {
  const MappedFile mapped(file);
  std::vector<std::byte> bytes(mapped.bytes().begin(), mapped.bytes().end());
  // Field 8 of ModelProto comes last: OperatorSetIdProto with domain "" (field 1, mostly written) and version (field
  // 2).
  if (bytes.size() > 2 && bytes[bytes.size() - 2] == std::byte{0x10} && bytes.back() < std::byte{7}) {
    bytes.back() = std::byte{7};
  }
  return read_onnx_bytes(bytes, file.string(), file.parent_path());
}

std::vector<fs::path> numbered(const fs::path& folder, const std::string& stem) {
  std::vector<fs::path> files;
  for (int i = 0; fs::exists(folder / (stem + std::to_string(i) + ".pb")); ++i) {
    files.push_back(folder / (stem + std::to_string(i) + ".pb"));
  }
  return files;
}

/// What infer_types() says of the outputs, with nothing declared but inputs and constants.
std::vector<Type> inferred(const Graph& graph) {
  Graph blank = graph;
  for (const ValueId v : blank.values()) {
    const bool input = std::find(blank.inputs.begin(), blank.inputs.end(), v) != blank.inputs.end();
    if (!input && !blank.is_constant(v)) blank[v].type = Type();
  }
  infer_types(blank);
  std::vector<Type> types;
  for (const Use& use : blank.outputs) types.push_back(blank[use.value].type);
  return types;
}

/// Element types must be known, extents may be; what is known must be true.
std::optional<std::string> check_inferred(const Type& type, const Tensor& actual) {
  if (!type.known_dtype) return "the type is not inferred";
  if (type.dtype != actual.dtype()) return "inferred type " + std::string(name_of(type.dtype));
  if (!type.known_rank) return std::nullopt;
  bool fits = type.shape.size() == actual.shape().size();
  for (std::size_t d = 0; fits && d < type.shape.size(); ++d) {
    fits = type.shape[d] < 0 || type.shape[d] == actual.shape()[d];
  }
  return fits ? std::nullopt
              : std::optional("inferred shape " + to_string(type.shape) + " for " + to_string(actual.shape()));
}

std::optional<std::string> run_data_set(const Graph& graph, const Executor& executor, const fs::path& folder) {
  std::vector<ValueId> open;
  for (const ValueId v : graph.inputs) {
    if (!graph.is_constant(v)) open.push_back(v);
  }
  const auto inputs = numbered(folder, "input_"), outputs = numbered(folder, "output_");
  Feeds feeds;
  for (std::size_t i = 0; i < inputs.size() && i < graph.inputs.size(); ++i) {
    const ValueId v = inputs.size() > open.size() ? graph.inputs[i] : open[i];
    feeds.emplace(v, as_declared(tensor_of(inputs[i]), graph, v));
  }
  const std::vector<Tensor> results = executor.run(feeds);
  if (results.size() != outputs.size()) return "another number of outputs";
  const std::vector<Type> types = inferred(graph);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Tensor want = as_declared(tensor_of(outputs[i]), graph, graph.outputs[i].value);
    const double relative = want.dtype() == DType::bf16 ? 0x1p-6 : 1e-3;
    if (auto wrong = difference(results[i], want, relative, 1e-7)) {
      return "output " + std::to_string(i) + ": " + *wrong;
    }
    if (auto wrong = check_inferred(types[i], results[i])) return "output " + std::to_string(i) + ": " + *wrong;
  }
  return std::nullopt;
}

std::optional<std::string> run_case(const fs::path& folder, Threads& threads) {
  try {
    const Graph graph = read_case(folder / "model.onnx");
    const Executor executor(graph, Reading::reference, threads);
    for (int k = 0; fs::exists(folder / ("test_data_set_" + std::to_string(k))); ++k) {
      if (auto wrong = run_data_set(graph, executor, folder / ("test_data_set_" + std::to_string(k)))) return wrong;
    }
    return std::nullopt;
  } catch (const Error& e) {
    return std::string(name_of(e.code())) + ": " + e.what();
  }
}

/// Runs the folders KIND/NAME under `cases`. `set`: how the ledger calls them.
void run_cases(const std::string& set, const fs::path& cases) {
  Ledger ledger(set);
  Threads threads(0, &best_integer_kernels());  // as the program does
  for (const char* kind : {"node", "simple", "pytorch-operator", "pytorch-converted"}) {
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(cases / kind)) {
      if (fs::exists(entry.path() / "model.onnx")) folders.push_back(entry.path());
    }
    std::sort(folders.begin(), folders.end());
    for (const auto& folder : folders) {
      ledger.report(std::string(kind) + "/" + folder.filename().string(), run_case(folder, threads));
    }
  }
  ledger.check_used();
  const int in_scope = ledger.passed() + ledger.excused();
  const double share = static_cast<double>(ledger.passed()) / std::max(in_scope, 1);
  std::printf("%s: %d of %d cases in scope conform (%.2f %%), %d are out of scope\n", set.c_str(), ledger.passed(),
              in_scope, 100 * share, ledger.out_of_scope());
  CHECK(share >= wanted_share);
}

}  // namespace

TEST_CASE("ONNX cases of Debian's libonnx-testdata") {
  const fs::path cases = "/usr/share/libonnx-testdata/data";
  if (!fs::exists(cases)) return skip("ONNX cases of Debian", "package libonnx-testdata is not installed");
  run_cases("debian", cases);
}

TEST_CASE("ONNX cases of the pinned onnx wheel") {
  const fs::path python = source_dir() / "build" / "venv" / "bin" / "python";
  if (!fs::exists(python)) return skip("ONNX cases of the wheel", "build/venv is not there (.ci/setup python)");
  const fs::path cases = fs::path(QTOOL_BINARY_DIR) / "onnx-cases";
  const std::string command = "\"" + python.string() + "\" \"" +
                              (source_dir() / "tests" / "conformance" / "dump_cases.py").string() + "\" \"" +
                              cases.string() + "\"";
  REQUIRE(std::system(command.c_str()) == 0);
  run_cases("wheel", cases);
}

}  // namespace qtool::test

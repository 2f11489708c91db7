// SPDX-License-Identifier: Apache-2.0
// --max-ram: what does not fit is refused with a ceiling that does, and a ceiling changes no byte.
#include "cli/memory.h"

#include "formats/base/rng.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// Layers of 1024 x 1024 weights, 4 MiB each.
Graph layers(int n) {
  std::string inputs = "float[4,1024] x", body;
  for (int i = 0; i < n; ++i) {
    const std::string from = i == 0 ? "x" : "m" + std::to_string(i - 1),
                      to = i + 1 == n ? "y" : "m" + std::to_string(i);
    inputs += ", float[1024,1024] w" + std::to_string(i);
    body += to + " = MatMul (" + from + ", w" + std::to_string(i) + ") ";
  }
  Graph g =
      parse_graph("<ir_version: 8, opset_import: [\"\" : 17]> g (" + inputs + ") => (float[4,1024] y) { " + body + "}");
  for (int i = 0; i < n; ++i) {
    Value& weight = g[g.inputs[static_cast<std::size_t>(i) + 1]];
    const Rng rng(7, weight.name);
    weight.data = Tensor(DType::f32, {1024, 1024});
    std::uint64_t at = 0;
    for (float& v : weight.data.write<float>()) v = static_cast<float>(rng.uniform(at++) - 0.5) / 16;
  }
  g.inputs.resize(1);
  return g;
}

}  // namespace

TEST_CASE("a ceiling changes no byte, and below the least one nothing is begun") {
  const ScratchFolder folder;
  const std::string model = folder / "m.onnx", free = folder / "free.onnx", held = folder / "held.onnx";
  const Graph graph = layers(24);
  write_onnx(graph, model);
  REQUIRE(run_qtool({"quantize", model, "--recipe", "int8_weights", "-o", free}).code == 0);
  const std::uint64_t least = least_ceiling(graph, 2) >> 20;
  const Outcome tight = run_qtool({"quantize", model, "--recipe", "int8_weights", "-o", held, "--threads", "2",
                                   "--max-ram", std::to_string(least + 1) + "M", "--log", folder / "log"});
  REQUIRE_MESSAGE(tight.code == 0, tight.err);
  CHECK(bytes_of(held) == bytes_of(free));
  CHECK(bytes_of(folder / "log").find("memory_ceiling") != std::string::npos);

  std::filesystem::remove(held);
  const Outcome refused = run_qtool({"quantize", model, "--recipe", "int8_weights", "-o", held, "--threads", "2",
                                     "--max-ram", std::to_string(least - 1) + "M"});
  CHECK(refused.code == 4);
  CHECK(refused.err.find("the smallest ceiling that it can keep is") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(held));
}

TEST_CASE("sizes that are none are refused") {
  const Outcome o =
      run_qtool({"quantize", sample_model("digits_cnn"), "--recipe", "int8_weights", "--max-ram", "much"});
  CHECK(o.code == 2);
  CHECK(o.err.find("--max-ram: \"much\" is no size") != std::string::npos);
}

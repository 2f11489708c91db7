// SPDX-License-Identifier: Apache-2.0
// The check of written files: passes what the emitter writes, names the node of every mistake put in by hand, and
// survives any bytes.
#include <doctest/doctest.h>

#include <fstream>
#include <functional>

#include "backends/backend.h"
#include "backends/verify/verify.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "tests/data_file.h"
#include "tests/documented.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;

namespace {

const Target& target() {
  static const Target t = find_backend("ort-cpu")->target();
  return t;
}

void verify_written(const std::filesystem::path& file, const Target& target) {
  VerifyRequest request;
  request.file = file;
  request.target = &target;
  Threads threads(1);
  Journal journal;
  expect_verified(request, threads, journal);
}

Graph pairs() {
  return parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[3,2] x) => (float[3,2] y)
    < float s = {0.5}, uint8 z = {3}, int8[2,2] w = {1, -2, 3, 4}, float[2] ws = {0.25, 0.125}, int8[2] wz = {0, 0},
      int32[2] b = {10, -20}, float[2] bs = {0.125, 0.0625}, int32[2] bz = {0, 0} >
    {
      xq = QuantizeLinear (x, s, z)
      xd = DequantizeLinear (xq, s, z)
      wd = DequantizeLinear <axis = 1> (w, ws, wz)
      bd = DequantizeLinear <axis = 0> (b, bs, bz)
      y = Gemm (xd, wd, bd)
    })");
}

Graph blocks() {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[1,40] x) => (float[1,3] y)
    < uint8[1] w = {0}, float[1] s = {0}, uint8[1] z = {0} >
    { y = com.microsoft.MatMulNBits <K = 40, N = 3, bits = 4, block_size = 16, accuracy_level = 4> (x, w, s, z) })");
  const auto set = [&](const char* name, Tensor t) {
    Value& v = g[*g.find_value(name)];
    v.type.shape = t.shape();
    v.data = std::move(t);
  };
  set("w", Tensor(DType::u8, {3, 3, 8}));
  Tensor scales(DType::f32, {3, 3});
  for (float& s : scales.write<float>()) s = 0.5F;
  set("s", scales);
  set("z", Tensor(DType::u8, {3, 2}));
  return g;
}

/// The message of the check for `graph` after `damage`; empty when it passes.
std::string verdict(Graph graph, const std::function<void(Graph&)>& damage = {}) {
  if (damage) damage(graph);
  const ScratchFolder folder;
  write_onnx(graph, folder / "m.onnx");
  try {
    verify_written(folder / "m.onnx", target());
    return "";
  } catch (const Error& e) {
    CHECK(e.code() == Code::verification);
    return e.what();
  }
}

std::function<void(Graph&)> floats(const char* name, std::vector<float> values) {
  return [=](Graph& g) {
    Value& v = g[*g.find_value(name)];
    v.data = Tensor::of<float>(v.data.shape(), std::span<const float>(values));
  };
}

std::function<void(Graph&)> shaped(const char* name, DType dtype, Shape shape) {
  return [=](Graph& g) {
    Value& v = g[*g.find_value(name)];
    v.data = Tensor(dtype, shape);
    v.type.dtype = dtype;
    v.type.shape = shape;
  };
}

NodeId producer(const Graph& g, const char* output) { return Links(g).producer(*g.find_value(output)); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("verify: correct pairs and blocks pass") {
  CHECK(verdict(pairs()) == "");
  CHECK(verdict(blocks()) == "");
}

TEST_CASE("verify: scales must be finite and positive") {
  CHECK(contains(verdict(pairs(), floats("s", {0.0F})), "scale 0 is 0"));
  const std::string negative = verdict(pairs(), floats("ws", {0.25F, -0.125F}));
  CHECK(contains(negative, "scale 1 is -0.125"));
  check_documented(Code::verification, negative);
  CHECK(contains(verdict(pairs(), floats("s", {std::numeric_limits<float>::quiet_NaN()})), "scale 0 is"));
}

// onnx-quantized.md section 3, trap 1: the runtime fuses a Gemm with a wrong bias scale and ignores it.
TEST_CASE("verify: trap 1: a bias lies on the scale of its product") {
  const std::string text = verdict(pairs(), floats("bs", {0.125F, 0.0631F}));
  CHECK(contains(text, "bias scale 1 is not the product"));
  CHECK(contains(text, "node \"bd\" (DequantizeLinear)"));
}

TEST_CASE("verify: numbers of scales and zero points, types, axes") {
  CHECK(contains(verdict(pairs(), [](Graph& g) { g[producer(g, "wd")].attrs.set("axis", std::int64_t{5}); }),
                 "axis 5 is outside"));
  CHECK(contains(verdict(pairs(), shaped("wz", DType::i8, {1})), "2 scales and 1 zero point"));
  CHECK(contains(verdict(pairs(), shaped("wz", DType::u8, {2})), "differ in type"));
  CHECK(contains(verdict(pairs(), shaped("w", DType::i8, {2, 3})), "2 scales for 3 channels"));
  CHECK(contains(verdict(pairs(),
                         [](Graph& g) {
                           g[*g.find_value("bz")].data = Tensor::of<std::int32_t>({2}, {0, 1});
                         }),
                 "int32 codes have a zero point"));
}

TEST_CASE("verify: a Gemm weight without a zero point would not be fused") {
  CHECK(contains(verdict(pairs(), [](Graph& g) { g[producer(g, "wd")].inputs.resize(2); }), "explicit zero point"));
}

TEST_CASE("verify: MatMulNBits: shapes, bits, blocks, level, order of groups") {
  const auto attribute = [](const char* name, std::int64_t value) {
    return [=](Graph& g) { g[producer(g, "y")].attrs.set(name, value); };
  };
  CHECK(contains(verdict(blocks(), attribute("block_size", 24)), "block_size 24 has no kernel"));
  CHECK(contains(verdict(blocks(), attribute("bits", 3)), "3 bits have no kernel"));
  CHECK(contains(verdict(blocks(), attribute("K", 80)), "weight is not [N, blocks, bytes per block]"));
  CHECK(contains(verdict(blocks(), shaped("w", DType::u8, {3, 24})), "weight is not [N, blocks, bytes per block]"));
  CHECK(contains(verdict(blocks(), shaped("z", DType::u8, {3, 1})), "zero points are not packed row by row"));
  CHECK(contains(verdict(blocks(), [](Graph& g) { g[producer(g, "y")].attrs.erase("accuracy_level"); }),
                 "left to the session"));
  CHECK(contains(verdict(blocks(),
                         [](Graph& g) {
                           Node& n = g[producer(g, "y")];
                           n.inputs.push_back(n.inputs[3]);
                         }),
                 "g_idx"));
}

TEST_CASE("verify: versions and imports") {
  const auto model = [](const std::function<void(ModelInfo&)>& change) {
    return [=](Graph& g) {
      ModelInfo m = *g.model;
      change(m);
      g.model = std::make_shared<const ModelInfo>(m);
    };
  };
  CHECK(contains(verdict(pairs(), model([](ModelInfo& m) { m.ir_version = 14; })), "IR version 14"));
  CHECK(contains(verdict(pairs(), model([](ModelInfo& m) { m.opsets[""] = 27; })), "opset 27"));
  CHECK(contains(verdict(blocks(), model([](ModelInfo& m) { m.opsets.erase("com.microsoft"); })), "is not imported"));
}

TEST_CASE("verify: external data: missing, short and escaping files are refused") {
  const ScratchFolder folder;
  Graph g = parse_graph(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,400] x) => (float[N,400] y) < float[1] k = {0} > { y = "
      "Add (x, k) }");
  shaped("k", DType::f32, {400})(g);  // more than 1 KiB, else it stays in the model file
  write_onnx(g, folder / "m.onnx", {.external_above = 0});
  const std::filesystem::path data = test::data_file_beside(folder / "m.onnx");
  REQUIRE(!data.empty());
  verify_written(folder / "m.onnx", target());
  std::filesystem::resize_file(data, 8);
  CHECK_THROWS_AS(verify_written(folder / "m.onnx", target()), Error);
  std::filesystem::remove(data);
  CHECK_THROWS_AS(verify_written(folder / "m.onnx", target()), Error);
}

TEST_CASE("verify: no bytes make it crash: every prefix, every byte changed") {
  const ScratchFolder folder;
  for (const Graph& graph : {pairs(), blocks()}) {
    const std::string good = write_onnx_bytes(graph);
    const auto judge = [&](const std::string& bytes) {
      std::ofstream(folder / "f.onnx", std::ios::binary | std::ios::trunc) << bytes;
      try {
        verify_written(folder / "f.onnx", target());
      } catch (const Error& e) {
        CHECK((e.code() == Code::verification || e.code() == Code::input));
      }
    };
    for (std::size_t n = 1; n < good.size(); n += 3) judge(good.substr(0, n));
    for (std::size_t i = 0; i < good.size(); ++i) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (i % 2 ? 0xff : 0x11));
      judge(bad);
    }
  }
}

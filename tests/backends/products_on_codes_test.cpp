// SPDX-License-Identifier: Apache-2.0
// Products that are decided to run on codes give, in the quantized reading, the bytes that the file written for ONNX
// Runtime gives (which tests/runtime compares with the runtime itself): on every kernel and without one.
#include <doctest/doctest.h>

#include <random>

#include "backends/backend.h"
#include "backends/cpu/kernel.h"
#include "calib/executor.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "tests/backends/specs.h"

namespace qtool {
namespace {

/// Activations: 8 bits, unsigned, with a zero point; `scale` 0: taken at run time.
Quant activations(float scale, std::int32_t zero = 0) {
  QuantSpec s;
  s.format = &number::uint8;
  s.symmetric = false;
  s.dynamic = scale == 0;
  if (scale != 0) s.scale = Tensor::scalar(scale), s.zero_point = Tensor::scalar(zero);
  return shared(s);
}

/// Weights with one scale per channel, all of them powers of two; axis -1: one scale.
Quant weights(int axis, std::int64_t channels) {
  QuantSpec s;
  s.format = &number::int8;
  s.narrow = true;
  s.grain = {axis < 0 ? Grain::Kind::tensor : Grain::Kind::axis, std::max(axis, 0), 0, 0};
  s.scale = Tensor(DType::f32, axis < 0 ? Shape{} : Shape{channels});
  for (std::size_t i = 0; float& v : s.scale.write<float>()) v = ++i % 2 == 0 ? 0.03125F : 0.015625F;
  return shared(s);
}

Quant rounded_inside(int axis, std::int64_t group) {
  QuantSpec s = *groups(number::int8, axis, group, true);
  s.narrow = s.dynamic = true;
  return shared(s);
}

Tensor noise(std::uint32_t seed, const Shape& shape) {
  std::mt19937 random(seed);
  Tensor t(DType::f32, shape);
  for (float& v : t.write<float>()) v = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  return t;
}

/// A graph whose constants, declared with no values of interest, get some.
Graph model(const std::string& text, const std::vector<std::pair<const char*, Shape>>& constants) {
  Graph g = parse_graph("<ir_version: 8, opset_import: [\"\" : 17]>\n" + text);
  for (const auto& [name, shape] : constants) {
    Value& v = g[*g.find_value(name)];
    v.data = noise(static_cast<std::uint32_t>(shape.size() + v.name.size()), shape);
    v.type.shape = shape;
  }
  return g;
}

Node& maker_of(Graph& g, const char* output) { return g[Links(g).producer(*g.find_value(output))]; }

std::string operators(const Graph& g) {
  std::string out;
  for (const NodeId n : g.order()) out += (out.empty() ? "" : " ") + g[n].op;
  return out;
}

void same_as_written(const Graph& decided, const Shape& input, const std::string& kernels) {
  Journal journal;
  const BackendDef* def = find_backend("ort-cpu");
  const Graph written = def->make()->lower(decided, def->target(), journal);
  CHECK(operators(written) == kernels);
  const Tensor x = noise(7, input);
  const auto run = [&](const Graph& g, Reading reading, Threads& threads) {
    return Executor(g, reading, threads).run({{g.inputs[0], x}})[0];
  };
  Threads plain(1);
  const Tensor expected = run(written, Reading::reference, plain);
  CHECK(run(decided, Reading::quantized, plain).same_bytes(expected));
  for (const IntegerKernel* kernel : integer_kernels()) {
    if (!kernel->runs(processor())) continue;
    const OnKernel integers(*kernel);
    Threads threads(2, &integers);
    CAPTURE(kernel->name);
    CHECK(run(decided, Reading::quantized, threads).same_bytes(expected));
    CHECK(run(written, Reading::reference, threads).same_bytes(expected));
  }
}

}  // namespace

TEST_CASE("static products give floats as MatMulIntegerToFloat and QGemm do") {
  Graph g =
      model("g (float[2,3,40] x) => (float[2,3,21] y) <float[1] w = {0}> { y = MatMul(x, w) }", {{"w", {40, 21}}});
  maker_of(g, "y").inputs[0].quant = activations(0.0078125F, 117);
  for (const int axis : {1, -1}) {
    maker_of(g, "y").inputs[1].quant = weights(axis, 21);
    same_as_written(g, {2, 3, 40}, "QuantizeLinear MatMulIntegerToFloat");
  }
  Graph h = model(
      "g (float[5,40] x) => (float[5,21] y) <float[1] w = {0}, float[1] b = {0}> {"
      " y = Gemm <transB = 1> (x, w, b) }",
      {{"w", {21, 40}}, {"b", {21}}});
  maker_of(h, "y").inputs[0].quant = activations(0.0078125F, 117);
  maker_of(h, "y").inputs[1].quant = weights(0, 21);
  maker_of(h, "y").inputs[2].quant = bias();
  same_as_written(h, {5, 40}, "QuantizeLinear DequantizeLinear DequantizeLinear DequantizeLinear Gemm");
}

TEST_CASE("a product of two activations runs on codes") {
  Graph g = model("g (float[2,6,6] x) => (float[2,6,6] y) { a = Neg(x) y = MatMul(x, a) }", {});
  for (Use& use : maker_of(g, "y").inputs) use.quant = activations(0.0078125F, 128);
  same_as_written(g, {2, 6, 6}, "Neg QuantizeLinear QuantizeLinear MatMulIntegerToFloat");
}

TEST_CASE("convolutions and their biases run on codes") {
  // Powers of two as scales: requantizing at once, as the written operator does, and in two steps is the same.
  for (const int group : {1, 4}) {
    Graph g = model(
        "g (float[2,4,9,7] x) => (float[2,8,9,7] y) <float[1] w = {0}, float[1] b = {0}> {"
        " c = Conv <pads = [1, 1, 1, 1], group = " +
            std::to_string(group) + "> (x, w, b) y = Neg(c) }",
        {{"w", {8, 4 / group, 3, 3}}, {"b", {8}}});
    Node& node = maker_of(g, "c");
    node.inputs[0].quant = activations(0.0078125F, 117);
    node.inputs[1].quant = weights(0, 8);
    node.inputs[2].quant = bias();
    maker_of(g, "y").inputs[0].quant = activations(0.0625F, 100);
    same_as_written(g, {2, 4, 9, 7},
                    "QuantizeLinear DequantizeLinear DequantizeLinear DequantizeLinear Conv QuantizeLinear "
                    "DequantizeLinear Neg");
  }
}

TEST_CASE("activations quantized at run time") {
  Graph g = model("g (float[3,40] x) => (float[3,21] y) <float[1] w = {0}> { y = MatMul(x, w) }", {{"w", {40, 21}}});
  maker_of(g, "y").inputs[0].quant = activations(0);
  maker_of(g, "y").inputs[1].quant = weights(1, 21);
  same_as_written(g, {3, 40}, "DynamicQuantizeMatMul");
  Graph h = model(
      "g (float[3,40] x) => (float[3,21] y) <float[1] w = {0}, float[1] b = {0}> {"
      " y = Gemm <transB = 1> (x, w, b) }",
      {{"w", {21, 40}}, {"b", {21}}});
  maker_of(h, "y").inputs[0].quant = activations(0);
  maker_of(h, "y").inputs[1].quant = weights(0, 21);
  same_as_written(h, {3, 40}, "DynamicQuantizeMatMul");
}

TEST_CASE("weights in groups, activations rounded inside") {
  for (const NumberFormat* format : {&number::int8, &number::int4, &number::uint4, &number::uint8}) {
    CAPTURE(format->name);
    const bool symmetric = format->lowest < 0;
    Graph g =
        model("g (float[2,3,80] x) => (float[2,3,21] y) <float[1] w = {0}> { y = MatMul(x, w) }", {{"w", {80, 21}}});
    maker_of(g, "y").inputs[0].quant = rounded_inside(2, 32);
    maker_of(g, "y").inputs[1].quant = groups(*format, 0, 32, symmetric);
    same_as_written(g, {2, 3, 80}, "MatMulNBits");
    Graph h = model(
        "g (float[3,80] x) => (float[3,21] y) <float[1] w = {0}, float[1] b = {0}> {"
        " y = Gemm <transB = 1> (x, w, b) }",
        {{"w", {21, 80}}, {"b", {21}}});
    maker_of(h, "y").inputs[0].quant = rounded_inside(1, 16);
    maker_of(h, "y").inputs[1].quant = groups(*format, 1, 16, symmetric);
    same_as_written(h, {3, 80}, "MatMulNBits");
  }
}

TEST_CASE("gradients go through the product of floats, and stop outside the range of codes") {
  Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {0.26, 0.1, 0.0, 1.0}> { y = MatMul(x, w) })");
  maker_of(g, "y").inputs[0].quant = activations(0.5F, 128);  // -64 to 63.5
  QuantSpec w;
  w.format = &number::int8;
  w.scale = Tensor::scalar(0.25F);
  maker_of(g, "y").inputs[1].quant = shared(w);
  const OnKernel integers(kernel::reference);
  Threads threads(1, &integers);
  const Executor executor(g, Reading::quantized, threads);
  const ValueId x = *g.find_value("x"), y = *g.find_value("y");
  const ValueId wanted[] = {x};
  const auto floats = [](const Tensor& t) {
    return std::vector<float>(t.read<float>().begin(), t.read<float>().end());
  };
  CHECK(floats(executor.run({{x, Tensor::of<float>({1, 2}, {1.2F, 100.0F})}})[0]) == std::vector<float>{0.25F, 63.5F});
  const auto gradient = executor.gradients({{x, Tensor::of<float>({1, 2}, {1.2F, 100.0F})}},
                                           {{y, Tensor::of<float>({1, 2}, {1.0F, 10.0F})}}, wanted);
  CHECK(floats(gradient[0]) == std::vector<float>{0.25F, 0});
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// OpenVINO on the CPU, reading ONNX. Every row was seen to run on 8-bit values in the graph that OpenVINO 2026.4 really
// executes, or (weights) to keep its codes; tests/oracle/openvino_layers.py repeats that. What it leaves in float
// although it stands between pairs has no row: products of two activations, ConvTranspose with zero points, Softmax,
// Sigmoid, Tile.
#include "backends/backend.h"
#include "backends/onnx/rules.h"

namespace qtool {
namespace {

const std::vector<std::string_view> activations{"uint8", "int8"};
const std::vector<std::string_view> static_weights{"int8", "int7", "int6", "int5"};

Ability product(std::string_view op, std::string_view kernel, std::string_view note) {
  Ability row = onnx_form::product_row(op, note, activations, static_weights);
  row.kernel = kernel;
  row.needs_constant_weight = true;
  return row;
}

std::vector<Ability> table() {
  std::vector<Ability> rows;
  rows.push_back(product("Conv", "Convolution in int8", "Relu, Add and the quantizer behind become part of it"));
  rows.back().bias_input = 2;
  rows.back().needs_output_quant = true;
  rows.back().weight_axes = {0};
  rows.push_back(product("MatMul", "FullyConnected in int8", "FullyConnected"));
  rows.back().weight_axes = {-1};
  rows.push_back(product("Gemm", "FullyConnected in int8", "FullyConnected with its bias"));
  rows.back().bias_input = 2;
  rows.back().weight_axes = {0, 1};
  rows.back().needs = onnx_form::plain_gemm();

  const auto arithmetic = [&](std::string_view op, std::vector<int> inputs, std::string_view note) {
    rows.push_back(onnx_form::arithmetic_row(op, std::move(inputs), note, activations));
  };
  arithmetic("Add", {0, 1}, "part of the Convolution before it, or computed between 8-bit loads and stores");
  arithmetic("Mul", {0, 1}, "computed between 8-bit loads and stores");
  arithmetic("Concat", {-1}, "Concatenation");
  arithmetic("AveragePool", {0}, "Pooling");
  arithmetic("GlobalAveragePool", {0}, "Reduce");

  for (const std::string_view op : {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
                                    "Expand", "DepthToSpace", "Split", "ReduceMax", "ReduceMin", "Identity"}) {
    rows.push_back(onnx_form::move_row(op, activations));
  }
  rows.push_back(onnx_form::move_row("Pad", activations));
  rows.back().note = "written on the codes, padding with the zero point";
  rows.push_back(onnx_form::move_row("MaxPool", activations, {{"storage_order", std::int64_t{0}, std::int64_t{0}}}));
  rows.push_back(
      onnx_form::move_row("Resize", activations, {{"mode", std::string_view("nearest"), std::string_view("nearest")}}));

  for (Ability& row : onnx_form::weight_only_rows({"int4", "int8", "int2", "uint4", "uint8", "uint2"}, {"int8"})) {
    if (row.op == "Gather") continue;
    row.groups = {32, 64, 128, 256};
    row.whole_groups = true;
    row.note = "MatMulNBits, kept as codes in FullyConnected; activations are quantized 32 at a time";
    rows.push_back(std::move(row));
  }
  return rows;
}

Target openvino_target() {
  Target target;
  target.name = "openvino";
  target.runtime = "OpenVINO";
  target.version = "2026.4";
  target.instruction_set = "avx512-vnni";
  target.max_opset = 26;
  target.max_ir = 13;
  target.domains = {"com.microsoft"};
  target.abilities = table();
  target.refused_methods = {{"dynamic",
                             "OpenVINO quantizes activations by itself where weights are small; use method "
                             "weights"}};
  target.arithmetic.weight_only_activation_bits = 8;
  target.unsigned_activations = true;
  return target;
}

class OpenvinoEmitter final : public Emitter {
  std::string form_ = "qdq";

 public:
  void options(Options& o) override { o("form", form_, "pairs, which OpenVINO fuses", {"qdq"}); }

  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    return onnx_form::lowered(decided, target, journal, onnx_form::contrib_opset, [](onnx_form::Lowering& l) {
      onnx_form::lower_matmul_nbits(l);
      onnx_form::lower_static(l, /*only_standard=*/true);
    });
  }
};

}  // namespace

namespace backend {
const BackendDef openvino{
    "openvino", "OpenVINO on Intel and Arm CPUs, from ONNX files",
    "Measured: every row was seen to run on 8-bit values, or to keep its codes, in the graph that OpenVINO 2026.4 "
    "executes on a CPU with AVX-512 VNNI (tests/oracle/openvino_layers.py repeats it). Not measured: speed, and Arm.",
    openvino_target, make_emitter<OpenvinoEmitter>};
}  // namespace backend
}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// What ONNX Runtime's CPU provider really fuses into integer kernels, as a table. Every row was seen in the optimized
// graph that the runtime saves; tests/runtime repeats that for each of them.
#include "backends/ort_cpu/ort_cpu.h"

namespace qtool {
namespace {

const std::vector<std::string_view> activations{"uint8", "int8"};
const std::vector<std::string_view> static_weights{"int8", "int7", "int6", "int5", "uint8"};
/// MatMulNBits: 2, 4 and 8 bits, the widths between in the next larger one; MatMulBnb4: nf4 and fp4, with their scales
/// in float32; DequantizeLinear before the product: float8. Scales that are powers of two are float32 in the file.
const std::vector<std::string_view> blocked_weights{
    "int4", "int8", "int2",  "uint4",    "uint8",    "uint2",      "int3",      "int5",
    "int6", "int7", "uint3", "uint5",    "uint6",    "uint7",      "mxint8",    "bfp2",
    "bfp3", "bfp4", "bfp5",  "bfp6",     "bfp7",     "bfp8",       "nf4",       "nf4_double",
    "fp4",  "e4m3", "e5m2",  "e4m3fnuz", "e5m2fnuz", "mxfp8_e4m3", "mxfp8_e5m2"};

Ability product(std::string_view op, std::string_view note) {
  return onnx_form::product_row(op, note, activations, static_weights);
}

Ability arithmetic(std::string_view op, std::vector<int> inputs, std::string_view note) {
  return onnx_form::arithmetic_row(op, std::move(inputs), note, activations);
}

Ability move(std::string_view op, std::vector<Need> needs = {}) {
  return onnx_form::move_row(op, activations, std::move(needs));
}

Ability conv() {
  Ability row =
      product("Conv", "QLinearConv; a Relu or Clip behind is absorbed when the zero point makes it redundant");
  row.kernel = "QLinearConv";
  row.bias_input = 2;
  row.needs_output_quant = true;
  row.needs_constant_weight = true;
  row.weight_axes = {0};
  return row;
}

Ability gemm() {
  Ability row =
      product("Gemm", "QGemm, output 8-bit or float; the bias must be int32 with scale = input * weight scale");
  row.kernel = "QGemm";
  row.bias_input = 2;
  row.needs_constant_weight = true;
  row.weight_axes = {0, 1};
  row.needs = onnx_form::plain_gemm();
  return row;
}

Ability matmul() {
  Ability row = product("MatMul", "QLinearMatMul, or MatMulIntegerToFloat where nothing quantizes the output");
  row.kernel = "QLinearMatMul";
  row.data_inputs = {0, 1};
  row.weight_axes = {-1};
  return row;
}

Ability fixed(std::string_view op, std::string_view note) {
  Ability row = arithmetic(op, {0}, note);
  row.fixed_output = true;
  return row;
}

Ability dynamic(std::string_view op) {
  Ability row{};
  row.op = op;
  row.role = Role::dynamic;
  row.data_inputs = {0};
  row.weight_input = 1;
  row.needs_constant_weight = true;
  row.activation_formats = {"uint8"};
  row.weight_formats = static_weights;
  row.note = "DynamicQuantizeMatMul, or MatMulIntegerToFloat where several products share one input";
  return row;
}

std::vector<Ability> table() {
  std::vector<Ability> rows;
  rows.push_back(conv());
  rows.push_back(matmul());
  rows.push_back(gemm());

  rows.push_back(arithmetic("Add", {0, 1}, "QLinearAdd"));
  rows.push_back(arithmetic("Mul", {0, 1}, "QLinearMul"));
  rows.push_back(arithmetic("Concat", {-1}, "QLinearConcat; a copy where all share one scale"));
  rows.push_back(arithmetic("AveragePool", {0}, "QLinearAveragePool"));
  rows.push_back(arithmetic("GlobalAveragePool", {0}, "QLinearGlobalAveragePool"));
  rows.push_back(arithmetic("LeakyRelu", {0}, "QLinearLeakyRelu"));
  rows.push_back(arithmetic("Where", {1, 2}, "QLinearWhere"));
  rows.push_back(fixed("Sigmoid", "QLinearSigmoid with output scale 1/256"));
  rows.push_back(fixed("Softmax", "QLinearSoftmax with output scale 1/256"));

  for (const std::string_view op : {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
                                    "Expand", "Tile", "DepthToSpace", "Split", "ReduceMax", "ReduceMin", "Identity"}) {
    rows.push_back(move(op));
  }
  rows.push_back(move("Pad"));
  rows.back().note = "written on the codes, padding with the zero point; the runtime would not fuse it";
  rows.push_back(move("MaxPool", {{"storage_order", std::int64_t{0}, std::int64_t{0}}}));
  rows.push_back(move("Resize", {{"mode", std::string_view("nearest"), std::string_view("nearest")}}));

  for (Ability& row : onnx_form::weight_only_rows(blocked_weights, {"int8"})) rows.push_back(std::move(row));

  rows.push_back(dynamic("MatMul"));
  rows.push_back(dynamic("Gemm"));
  rows.back().bias_input = 2;
  rows.back().needs = onnx_form::plain_gemm();
  return rows;
}

}  // namespace

namespace ort_cpu {

Target onnx_runtime() {
  Target target;
  target.version = "1.31";
  target.max_opset = 26;
  target.max_ir = 13;
  target.domains = {"com.microsoft"};
  return target;
}

}  // namespace ort_cpu

Target ort_cpu_target() {
  Target target = ort_cpu::onnx_runtime();
  target.name = "ort-cpu";
  target.runtime = "ONNX Runtime";
  target.instruction_set = "avx512-vnni";
  target.abilities = table();
  target.costs = ort_cpu::rates();
  target.arithmetic.weight_only_activation_bits = 8;
  target.rewrites_float_layers = true;
  target.unsigned_activations = true;
  return target;
}

}  // namespace qtool

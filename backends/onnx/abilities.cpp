// SPDX-License-Identifier: Apache-2.0
#include "backends/onnx/rules.h"

namespace qtool::onnx_form {

Ability product_row(std::string_view op, std::string_view note, std::vector<std::string_view> activations,
                    std::vector<std::string_view> weights) {
  Ability row{};
  row.op = op;
  row.role = Role::product;
  row.data_inputs = {0};
  row.weight_input = 1;
  row.activation_formats = std::move(activations);
  row.weight_formats = std::move(weights);
  row.note = note;
  return row;
}

Ability arithmetic_row(std::string_view op, std::vector<int> inputs, std::string_view note,
                       std::vector<std::string_view> activations) {
  Ability row{};
  row.op = op;
  row.role = Role::arithmetic;
  row.data_inputs = std::move(inputs);
  row.needs_output_quant = true;
  row.activation_formats = std::move(activations);
  row.note = note;
  return row;
}

Ability move_row(std::string_view op, std::vector<std::string_view> activations, std::vector<Need> needs) {
  Ability row{};
  row.op = op;
  row.role = Role::move;
  row.data_inputs = {0};
  row.needs_output_quant = true;
  row.activation_formats = std::move(activations);
  row.needs = std::move(needs);
  row.note = "runs on the codes; input and output share scale and zero point";
  return row;
}

std::vector<Need> plain_gemm() { return {{"alpha", 1.0F, 1.0F}, {"transA", std::int64_t{0}, std::int64_t{0}}}; }

std::vector<Ability> weight_only_rows(const std::vector<std::string_view>& weights,
                                      const std::vector<std::string_view>& activations) {
  Ability product{};
  product.op = "MatMul";
  product.role = Role::weight_only;
  product.data_inputs = {0};
  product.weight_input = 1;
  product.needs_constant_weight = true;
  product.activation_formats = activations;
  product.weight_formats = weights;
  product.groups = {16, 32, 64, 128, 256};
  product.note = "MatMulNBits";

  Ability gemm = product;
  gemm.op = "Gemm";
  gemm.bias_input = 2;
  gemm.needs = plain_gemm();
  gemm.note = "MatMulNBits with its bias";

  Ability table = product;
  table.op = "Gather";
  table.data_inputs = {};
  table.weight_input = 0;
  table.activation_formats = {};
  table.weight_formats = {"int4", "uint4", "uint8", "int8"};
  table.needs = {{"axis", std::int64_t{0}, std::int64_t{0}}};
  table.note = "GatherBlockQuantized: rows of the table are dequantized as they are read";
  return {product, gemm, table};
}

}  // namespace qtool::onnx_form

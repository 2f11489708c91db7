// SPDX-License-Identifier: Apache-2.0
// TensorRT, explicit quantization (onnx-quantized.md section 5): symmetric int8 pairs on the inputs of products, biases
// and outputs in float, and the shortcut of a residual Add quantized, so that the Add becomes part of the convolution.
// The rules are those of NVIDIA's documents and of the ONNX parser; no GPU was at hand to see a file run.
#include "backends/backend.h"
#include "backends/onnx/rules.h"

namespace qtool {
namespace {

// Small channel counts fill the tensor cores' tiles badly; a square kernel on channels in eights is the exception.
std::string_view unfit_conv(const Node& node, const Shape&, const Shape& weight) {
  constexpr std::int64_t least = 16;
  if (weight.size() < 3 || weight[0] < 0 || weight[1] < 0) return {};
  const std::int64_t group = node.attrs.get("group", std::int64_t{1});
  const std::int64_t outputs = weight[0], inputs = weight[1] * group;
  if (outputs >= least && inputs >= least) return {};
  const bool square = group == 1 && weight.size() == 4 && weight[2] == weight[3];
  if (square && outputs % 8 == 0 && inputs % 8 == 0) return {};
  return "TensorRT runs a Conv of fewer than 16 channels faster in float";
}

// Products with a vector read every weight once: memory bounds them, and quantizers only add to it.
std::string_view unfit_product(const Node& node, const Shape& input, const Shape& weight) {
  if (input.size() < 2 || weight.size() < 2) return {};
  const bool turned = node.op == "Gemm" && node.attrs.get("transB", std::int64_t{0}) != 0;
  const std::int64_t columns = turned ? weight[weight.size() - 2] : weight.back(), rows = input[input.size() - 2];
  const bool one_row = rows == 1 && (input.size() == 2 || weight.size() > 2);
  return columns == 1 || one_row ? "TensorRT runs a product with a vector faster in float" : std::string_view{};
}

std::string_view unfit_blocks(const Node&, const Shape&, const Shape& weight) {
  return weight.empty() || weight.back() % 2 == 0 ? std::string_view{}
                                                  : "TensorRT takes 4-bit codes with an even last extent alone";
}

std::vector<Ability> table() {
  std::vector<Ability> rows;
  const auto product = [&](std::string_view op, std::string_view note) {
    rows.push_back(onnx_form::product_row(op, note, {"int8"}, {"int8"}));
    rows.back().kernel = "explicit int8";
  };
  product("Conv", "pairs on input and weight; batch normalization, Relu and a residual Add become part of it");
  rows.back().needs_constant_weight = true;
  rows.back().weight_axes = {0};
  rows.back().unfit = unfit_conv;
  product("MatMul", "pairs on both operands");
  rows.back().data_inputs = {0, 1};
  rows.back().weight_axes = {-1};
  rows.back().unfit = unfit_product;
  product("Gemm", "pairs on input and weight; the bias stays float");
  rows.back().needs_constant_weight = true;
  rows.back().weight_axes = {0, 1};
  rows.back().needs = onnx_form::plain_gemm();
  rows.back().unfit = unfit_product;

  for (Ability& row : onnx_form::weight_only_rows({"int4"}, {})) {
    if (row.op == "Gather") continue;
    row.whole_groups = true;
    row.unfit = unfit_blocks;
    row.note = "int4 codes and DequantizeLinear with block_size before the product";
    rows.push_back(std::move(row));
  }
  return rows;
}

Target tensorrt_target() {
  Target target;
  target.name = "tensorrt";
  target.runtime = "TensorRT";
  target.version = "11";
  target.instruction_set = "sm80";
  target.max_opset = 25;
  target.max_ir = 13;
  target.abilities = table();
  target.refused_methods = {{"dynamic", "its parser has no DynamicQuantizeLinear; use method static or weights"}};
  target.symmetric_activations = true;
  target.quantized_shortcuts = true;
  target.normalization_layers = true;
  return target;
}

class TensorrtEmitter final : public Emitter {
  std::string form_ = "qdq";

 public:
  void options(Options& o) override { o("form", form_, "pairs: explicit quantization", {"qdq"}); }

  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    return onnx_form::lowered(decided, target, journal, onnx_form::blocked_opset, [](onnx_form::Lowering& l) {
      onnx_form::lower_blocks(l);
      onnx_form::lower_static(l, /*only_standard=*/true);
    });
  }
};

}  // namespace

namespace backend {
const BackendDef tensorrt{
    "tensorrt", "TensorRT on NVIDIA GPUs: symmetric int8, 4-bit weights",
    "Not measured: the rules are those of NVIDIA's documents and of the ONNX parser, and no file was run on a GPU. "
    "Measured: what the files compute, in ONNX Runtime on the CPU (tests/runtime).",
    tensorrt_target, make_emitter<TensorrtEmitter>};
}  // namespace backend
}  // namespace qtool

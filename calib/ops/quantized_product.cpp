// SPDX-License-Identifier: Apache-2.0
// Products and convolutions of 8-bit codes: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv and those of
// com.microsoft. Sums are exact; the way back to codes multiplies by one float32 scale, as ONNX Runtime does.
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/code_product.h"
#include "calib/ops/operand.h"
#include "calib/ops/quantized.h"

namespace qtool::op {
namespace {

constexpr std::string_view microsoft = "com.microsoft";

/// left * right[i] / divisor.
std::vector<float> combined(float left, const Tensor& right, float divisor) {
  const Tensor r = to_f32(right);
  std::vector<float> out;
  for (const float s : r.read<float>()) out.push_back(left * s / divisor);
  return out;
}

/// One scale per column of the result (or one in all).
void require_columns(const std::vector<float>& scales, std::int64_t n) {
  require(scales.size() == 1 || static_cast<std::int64_t>(scales.size()) == n,
          "there are " + std::to_string(scales.size()) + " scales for " + std::to_string(n) + " columns");
}

/// Scales of sums [..., n], one per column or one in all.
SumScales by_column(std::vector<float> scales, std::int64_t n) {
  require_columns(scales, n);
  const bool one = scales.size() == 1;
  return {std::move(scales), one ? 1 : n, 1, {}};
}

void add_bias(Tensor& y, const Tensor& bias) {
  if (bias.empty()) return;
  const Tensor b = compute_float(bias, "the bias");
  const auto from = b.read<float>();
  require(!y.shape().empty() && b.count() == y.shape().back(), "the bias does not have one entry per column");
  const auto to = y.write<float>();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i % from.size()];
}

void infer_product(InferContext& c, std::size_t a, std::size_t b, bool known, DType dtype) {
  Type t;
  t.known_dtype = known;
  t.dtype = dtype;
  if (c.in(a).known_rank && c.in(b).known_rank && !c.in(a).shape.empty() && !c.in(b).shape.empty()) {
    t.known_rank = true;
    t.shape = infer_matmul(c.in(a).shape, c.in(b).shape);
  }
  c.out(0, t);
}

// ---- MatMulInteger(A, B, a_zero_point, b_zero_point)

void matmul_integer(const OpContext& c) {
  const MatMulPlan plan = plan_matmul(c.in(0).shape(), c.in(1).shape());
  c.out(0, product_of_codes(c.threads, plan, c.in(0), c.in(2), c.in(1), c.in(3)));
}

void matmul_integer_infer(InferContext& c) { infer_product(c, 0, 1, true, DType::i32); }

// ---- QLinearMatMul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point)

void qlinear_matmul(const OpContext& c) {
  const Tensor &a = c.in(0), &b = c.in(3);
  const MatMulPlan plan = plan_matmul(a.shape(), b.shape());
  const SumScales scales =
      by_column(combined(scalar_of(c.in(1), "a_scale"), c.in(4), scalar_of(c.in(6), "y_scale")), plan.n);
  c.out(0, scaled_product_of_codes(c.threads, plan, a, c.in(2), b, c.in(5),
                                   {scales, c.in(7).dtype(), scalar_of(c.in(7), "y_zero_point")}));
}

void qlinear_matmul_infer(InferContext& c) { infer_product(c, 0, 3, c.in(7).known_dtype, c.in(7).dtype); }

// ---- MatMulIntegerToFloat(A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)

void matmul_integer_to_float(const OpContext& c) {
  const MatMulPlan plan = plan_matmul(c.in(0).shape(), c.in(1).shape());
  Tensor y = scaled_product_of_codes(c.threads, plan, c.in(0), c.in(4), c.in(1), c.in(5),
                                     {by_column(combined(scalar_of(c.in(2), "a_scale"), c.in(3), 1.0F), plan.n)});
  add_bias(y, c.in(6));
  c.out(0, from_f32(y, c.in(2).dtype()));
}

void matmul_integer_to_float_infer(InferContext& c) { infer_product(c, 0, 1, c.in(2).known_dtype, c.in(2).dtype); }

// ---- DynamicQuantizeMatMul(A, B, b_scale, b_zero_point, bias)

void dynamic_quantize_matmul(const OpContext& c) {
  require(c.in(0).dtype() == DType::f32, "DynamicQuantizeMatMul needs a float32 operand A");
  const MatMulPlan plan = plan_matmul(c.in(0).shape(), c.in(1).shape());
  const DynamicQuantization q = quantize_dynamic(c.threads, c.in(0));
  Tensor y = scaled_product_of_codes(c.threads, plan, q.codes, Tensor::scalar(q.zero_point), c.in(1), c.in(3),
                                     {by_column(combined(q.scale, c.in(2), 1.0F), plan.n)});
  add_bias(y, c.in(4));
  c.out(0, std::move(y));
}

void dynamic_quantize_matmul_infer(InferContext& c) { infer_product(c, 0, 1, true, DType::f32); }

// ---- QGemm(A, a_scale, a_zero_point, B, b_scale, b_zero_point, C, y_scale, y_zero_point)

void qgemm(const OpContext& c) {
  const bool transpose_a = c.attrs().get("transA", std::int64_t{0}) != 0,
             transpose_b = c.attrs().get("transB", std::int64_t{0}) != 0;
  const Tensor &a = c.in(0), &b = c.in(3);
  require(a.rank() == 2 && b.rank() == 2, "QGemm needs matrices");
  const MatMulPlan plan = plan_matmul(a.shape(), b.shape(), transpose_a, transpose_b);
  Tensor sums = product_of_codes(c.threads, plan, a, c.in(2), b, c.in(5));
  if (c.has(6)) {
    const Tensor& bias = c.in(6);
    require(bias.dtype() == DType::i32, "the bias of QGemm must be int32");
    require(broadcast(bias.shape(), plan.output) == plan.output,
            "the bias of shape " + to_string(bias.shape()) + " does not fit");
    const std::vector<std::int64_t> step = broadcast_strides(bias.shape(), plan.output);
    const auto to = sums.write<std::int32_t>();
    const auto from = bias.read<std::int32_t>();
    for (std::int64_t i = 0; i < plan.output[0]; ++i) {
      for (std::int64_t j = 0; j < plan.n; ++j) {
        std::int32_t& sum = to[at(i * plan.n + j)];
        sum = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) +
                                        static_cast<std::uint32_t>(from[at(i * step[0] + j * step[1])]));
      }
    }
  }
  const float alpha = c.attrs().get("alpha", 1.0F);
  const bool quantized = c.has(7) && c.has(8);
  const SumScales scales = by_column(
      combined(alpha * scalar_of(c.in(1), "a_scale"), c.in(4), quantized ? scalar_of(c.in(7), "y_scale") : 1.0F),
      plan.n);
  if (!quantized) return c.out(0, scaled_sums(c.threads, sums, {scales}));
  c.out(0, scaled_sums(c.threads, sums, {scales, c.in(8).dtype(), scalar_of(c.in(8), "y_zero_point")}));
}

void qgemm_infer(InferContext& c) {
  const bool quantized = c.has(8);
  Type t;
  t.known_dtype = !quantized || c.in(8).known_dtype;
  t.dtype = quantized ? c.in(8).dtype : DType::f32;
  if (c.in(0).known_rank && c.in(3).known_rank && c.in(0).shape.size() == 2 && c.in(3).shape.size() == 2) {
    t.known_rank = true;
    t.shape = {c.in(0).shape[c.attrs().get("transA", std::int64_t{0}) != 0 ? 1 : 0],
               c.in(3).shape[c.attrs().get("transB", std::int64_t{0}) != 0 ? 0 : 1]};
  }
  c.out(0, t);
}

// ---- ConvInteger(x, w, x_zero_point, w_zero_point)

void conv_integer(const OpContext& c) {
  const Convolution k = convolution_of(c.attrs(), c.in(0).shape(), c.in(1).shape());
  c.out(0, convolution_of_codes(c.threads, k, c.in(0), c.in(2), c.in(1), c.in(3)));
}

void conv_integer_infer(InferContext& c) { infer_convolution(c, 0, 1, true, DType::i32); }

// ---- QLinearConv(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B)

void qlinear_conv(const OpContext& c) {
  const Tensor &x = c.in(0), &w = c.in(3);
  const Convolution k = convolution_of(c.attrs(), x.shape(), w.shape());
  SumScales scales{combined(scalar_of(c.in(1), "x_scale"), c.in(4), scalar_of(c.in(6), "y_scale")),
                   k.groups * k.outputs, k.window.output_size(), c.in(8)};
  require(scales.scales.size() == 1 || static_cast<std::int64_t>(scales.scales.size()) == scales.n,
          "the kernel does not have one scale per output channel");
  c.out(0, scaled_convolution_of_codes(c.threads, k, x, c.in(2), w, c.in(5),
                                       {scales, c.in(7).dtype(), scalar_of(c.in(7), "y_zero_point")}, c.kept(3)));
}

void qlinear_conv_infer(InferContext& c) { infer_convolution(c, 0, 3, c.in(7).known_dtype, c.in(7).dtype); }

}  // namespace

constinit const OpDef ConvInteger{"ConvInteger", "", 10, conv_integer_infer, conv_integer, nullptr};
constinit const OpDef MatMulInteger{"MatMulInteger", "", 10, matmul_integer_infer, matmul_integer, nullptr};
constinit const OpDef QLinearConv{"QLinearConv", "", 10, qlinear_conv_infer, qlinear_conv, nullptr, kernel_floats};
constinit const OpDef QLinearMatMul{"QLinearMatMul", "", 10, qlinear_matmul_infer, qlinear_matmul, nullptr};
constinit const OpDef ms_DynamicQuantizeMatMul{"DynamicQuantizeMatMul", microsoft, 1, dynamic_quantize_matmul_infer,
                                               dynamic_quantize_matmul, nullptr};
constinit const OpDef ms_MatMulIntegerToFloat{"MatMulIntegerToFloat",  microsoft, 1, matmul_integer_to_float_infer,
                                              matmul_integer_to_float, nullptr};
constinit const OpDef ms_QGemm{"QGemm", microsoft, 1, qgemm_infer, qgemm, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/on_codes.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "calib/ops/code_product.h"
#include "calib/ops/operand.h"
#include "calib/ops/quantized.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

/// scale(A) * scale(B), one or one per output channel, times `factor`.
std::vector<float> product_scales(const OpContext& c, float factor) {
  const float left = scalar_of(c.in(1), "the scale of operand A");
  std::vector<float> out;
  for (const float right : c.in(4).read<float>()) out.push_back(factor * (left * right));
  return out;
}

bool is_integer_bias(const OpContext& c) { return c.has(6) && c.in(6).dtype() == DType::i32; }

SumScales scales_of(const OpContext& c, float factor, std::int64_t channels, std::int64_t inner) {
  SumScales s{product_scales(c, factor), channels, inner, is_integer_bias(c) ? c.in(6) : Tensor()};
  require(s.scales.size() == 1 || static_cast<std::int64_t>(s.scales.size()) == channels,
          "the second operand does not have one scale per output channel");
  return s;
}

/// y += factor * bias, where the bias of shape `shape` spreads over y.
void add_float_bias(const OpContext& c, float factor, const Shape& shape, Tensor& y) {
  if (!c.has(6) || is_integer_bias(c)) return;
  const Tensor bias = compute_float(c.in(6), "the bias");
  require(op::broadcast(shape, y.shape()) == y.shape(),
          "the bias of shape " + to_string(bias.shape()) + " does not fit " + to_string(y.shape()));
  const float* b = bias.read<float>().data();
  float* to = y.write<float>().data();
  const auto walk = op::make_walk<1>(y.shape(), {op::broadcast_strides(shape, y.shape())});
  op::for_runs(c.threads, walk, [&](std::int64_t at_y, const auto& starts, const auto& steps, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) to[at_y + i] += factor * b[starts[0] + i * steps[0]];
  });
}

void convolution(const OpContext& c) {
  const Convolution k = convolution_of(c.attrs(), c.in(0).shape(), c.in(3).shape());
  const std::int64_t channels = k.groups * k.outputs;
  Tensor y = scaled_convolution_of_codes(c.threads, k, c.in(0), c.in(2), c.in(3), c.in(5),
                                         {scales_of(c, 1.0F, channels, k.window.output_size())}, c.kept(3));
  Shape per_channel(y.shape().size(), 1);
  per_channel[1] = channels;
  require(!c.has(6) || c.in(6).count() == channels, "the bias does not have one entry per output channel");
  add_float_bias(c, 1.0F, per_channel, y);
  c.out(0, std::move(y));
}

void product(const OpContext& c) {
  const MatMulPlan plan = plan_matmul(c.in(0).shape(), c.in(3).shape());
  c.out(0,
        scaled_product_of_codes(c.threads, plan, c.in(0), c.in(2), c.in(3), c.in(5), {scales_of(c, 1.0F, plan.n, 1)}));
}

void general_product(const OpContext& c) {
  require(c.in(0).rank() == 2 && c.in(3).rank() == 2, "Gemm needs matrices");
  const MatMulPlan plan = plan_matmul(c.in(0).shape(), c.in(3).shape(), c.attrs().get("transA", std::int64_t{0}) != 0,
                                      c.attrs().get("transB", std::int64_t{0}) != 0);
  Tensor y = scaled_product_of_codes(c.threads, plan, c.in(0), c.in(2), c.in(3), c.in(5),
                                     {scales_of(c, c.attrs().get("alpha", 1.0F), plan.n, 1)});
  add_float_bias(c, c.attrs().get("beta", 1.0F), c.in(6).shape(), y);
  c.out(0, std::move(y));
}

/// Known to the executor alone: no graph names them.
constexpr std::array on_codes{OpDef{"Conv", "", 1, nullptr, convolution, nullptr, kernel_floats},
                              OpDef{"MatMul", "", 1, nullptr, product, nullptr},
                              OpDef{"Gemm", "", 1, nullptr, general_product, nullptr}};

const Use* input(const Node& node, std::size_t i) {
  return i < node.inputs.size() && node.inputs[i].value != ValueId::none ? &node.inputs[i] : nullptr;
}

bool is_small_integer(const QuantSpec& s) {
  return s.format != nullptr && s.format->is_integer && s.format->bits <= 8 && !s.is_bias && s.minimum.empty() &&
         s.ranges.empty() && s.second_scale.empty() && (s.scale_format == nullptr || !s.scale.empty());
}

bool is_known_f32(const Graph& g, ValueId v) {
  return g.is_constant(v) ? g[v].data.dtype() == DType::f32 : g[v].type.known_dtype && g[v].type.dtype == DType::f32;
}

std::optional<std::int64_t> rank_of(const Graph& g, ValueId v) {
  if (g.is_constant(v)) return g[v].data.rank();
  if (!g[v].type.known_rank) return std::nullopt;
  return static_cast<std::int64_t>(g[v].type.shape.size());
}

/// Output channels of a constant second operand lie on this axis.
std::int64_t channel_axis(const Node& node, std::int64_t rank) {
  if (node.op == "Conv") return 0;
  if (node.op == "Gemm") return node.attrs.get("transB", std::int64_t{0}) != 0 ? 0 : 1;
  return rank - 1;
}

bool is_plain_gemm(const Node& node) {
  return node.attrs.get("alpha", 1.0F) == 1.0F && node.attrs.get("beta", 1.0F) == 1.0F;
}

/// Codes as MatMulNBits stores them: [n, blocks * block] unsigned, and what it reads of scales and zero points.
std::vector<Tensor> blocks_of(const Tensor& weight, const QuantSpec& given, int k_axis) {
  const QuantSpec spec = with_scales(given, weight);
  const Tensor codes = quantize(weight, spec);
  const std::int64_t k = weight.shape()[at(k_axis)], n = weight.shape()[at(1 - k_axis)], block = spec.grain.group;
  const std::int64_t blocks = (k + block - 1) / block;
  const int shift = codes.dtype() == DType::i8 ? 128 : 0;
  Tensor packed(DType::u8, {n, blocks, block}), scales(DType::f32, {n, blocks}), zeros(DType::u8, {n, blocks});
  const auto from = codes.bytes();
  const auto to = packed.write<std::uint8_t>();
  const auto s = spec.scale.read<float>();
  const auto z = spec.zero_point.empty() ? std::span<const std::int32_t>{} : spec.zero_point.read<std::int32_t>();
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t l = 0; l < k; ++l) {
      const std::byte code = from[at(k_axis == 0 ? l * n + j : j * k + l)];
      to[at(j * blocks * block + l)] = static_cast<std::uint8_t>(static_cast<int>(code) + shift);
    }
    for (std::int64_t q = 0; q < blocks; ++q) {
      const std::size_t i = at(k_axis == 0 ? q * n + j : j * blocks + q);
      scales.write<float>()[at(j * blocks + q)] = s[i];
      zeros.write<std::uint8_t>()[at(j * blocks + q)] = static_cast<std::uint8_t>((z.empty() ? 0 : z[i]) + shift);
    }
  }
  return {packed, scales, zeros};
}

}  // namespace

std::optional<ProductOnCodes> product_on_codes(const Graph& g, const Node& node) {
  if (!node.domain.empty() || node.inputs.size() < 2 || !node.inputs[0].quant || !node.inputs[1].quant) {
    return std::nullopt;
  }
  const auto* def =
      std::find_if(on_codes.begin(), on_codes.end(), [&](const OpDef& candidate) { return candidate.name == node.op; });
  if (def == on_codes.end() || !is_small_integer(*node.inputs[0].quant) || !is_small_integer(*node.inputs[1].quant) ||
      node.inputs[0].quant->grain.kind != Grain::Kind::tensor ||
      (!is_known_f32(g, node.inputs[0].value) && !is_known_f32(g, node.inputs[1].value))) {
    return std::nullopt;
  }
  const Grain& grain = node.inputs[1].quant->grain;
  const auto rank = rank_of(g, node.inputs[1].value);
  if (grain.kind != Grain::Kind::tensor &&
      (grain.kind != Grain::Kind::axis || !rank || *rank < 2 || grain.axis != channel_axis(node, *rank))) {
    return std::nullopt;
  }
  ProductOnCodes out{def, false};
  const Use* bias = input(node, 2);
  if (bias == nullptr || !bias->quant) return out;
  out.integer_bias = bias->quant->is_bias;
  if (!out.integer_bias || node.op == "Conv") return out.integer_bias ? std::optional(out) : std::nullopt;
  // Of Gemm only what is one number per column, and not multiplied.
  if (!is_plain_gemm(node) || !g.is_constant(bias->value) || !g.is_constant(node.inputs[1].value) || !rank ||
      *rank != 2) {
    return std::nullopt;
  }
  const std::int64_t columns = g[node.inputs[1].value].data.shape()[at(channel_axis(node, 2))];
  const Shape& shape = g[bias->value].data.shape();
  if (shape != Shape{columns} && shape != Shape{1, columns}) return std::nullopt;
  return out;
}

std::optional<ProductInBlocks> product_in_blocks(const Graph& g, const Node& node) {
  if (!node.domain.empty() || node.inputs.size() < 2 || !node.inputs[0].quant || !node.inputs[1].quant ||
      (node.op != "MatMul" && node.op != "Gemm") || !g.is_constant(node.inputs[1].value)) {
    return std::nullopt;
  }
  const QuantSpec &x = *node.inputs[0].quant, &w = *node.inputs[1].quant;
  const Tensor& weight = g[node.inputs[1].value].data;
  const std::int64_t group = w.grain.group;
  const auto rank = rank_of(g, node.inputs[0].value);
  if (!is_small_integer(x) || !is_small_integer(w) || !x.dynamic || !x.symmetric || !x.narrow ||
      x.format != &number::int8 || x.grain.kind != Grain::Kind::groups || w.grain.kind != Grain::Kind::groups ||
      weight.rank() != 2 || weight.count() == 0 || weight.dtype() != DType::f32 || x.grain.group != group ||
      group < 16 || group > 65536 || (group & (group - 1)) != 0 || x.grain.axis < 1 ||
      (rank && x.grain.axis != *rank - 1) || node.attrs.get("transA", std::int64_t{0}) != 0 || !is_plain_gemm(node)) {
    return std::nullopt;
  }
  const int k_axis = static_cast<int>(1 - channel_axis(node, 2));
  const std::int64_t k = weight.shape()[at(k_axis)], n = weight.shape()[at(1 - k_axis)];
  if (w.grain.axis != k_axis) return std::nullopt;
  ProductInBlocks out;
  const Use* bias = input(node, 2);
  if (bias != nullptr && (bias->quant || !g.is_constant(bias->value) || g[bias->value].data.shape() != Shape{n})) {
    return std::nullopt;
  }
  out.constants = blocks_of(weight, w, k_axis);
  if (bias != nullptr) {
    out.constants.emplace_back();  // no order of inputs
    out.constants.push_back(g[bias->value].data);
  }
  out.node.name = node.name;
  out.node.op = "MatMulNBits";
  out.node.domain = "com.microsoft";
  out.node.outputs = node.outputs;
  for (const auto& [name, value] : std::vector<std::pair<const char*, std::int64_t>>{
           {"K", k}, {"N", n}, {"bits", 8}, {"block_size", group}, {"accuracy_level", 4}}) {
    out.node.attrs.set(name, value);
  }
  return out;
}

}  // namespace qtool

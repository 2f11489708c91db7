// SPDX-License-Identifier: Apache-2.0
// What targets that read ONNX share: rows of their tables, and rules that write decisions as nodes. Each rule takes the
// nodes whose decisions it understands and leaves the rest alone.
#pragma once

#include <functional>

#include "backends/onnx/lowering.h"
#include "formats/target.h"

namespace qtool::onnx_form {

/// MatMulNBits was seen to run from this operator set on; older files are raised to it.
constexpr std::int64_t contrib_opset = 17;
/// QuantizeLinear and DequantizeLinear with 4-bit and 16-bit codes, and with blocks.
constexpr std::int64_t blocked_opset = 21;

/// The graph as `rules` write it, after its operator set was raised where a decision needs a newer one, as far as
/// `target` goes. `groups`: what weights in groups need, contrib_opset or blocked_opset.
Graph lowered(const Graph& decided, const Target& target, Journal& journal, std::int64_t groups,
              const std::function<void(Lowering&)>& rules);

/// A product with constant weight at position 1 and activations at 0.
Ability product_row(std::string_view op, std::string_view note, std::vector<std::string_view> activations,
                    std::vector<std::string_view> weights);
/// An operator that computes on codes with scales of their own; inputs {-1}: all.
Ability arithmetic_row(std::string_view op, std::vector<int> inputs, std::string_view note,
                       std::vector<std::string_view> activations);
/// An operator that moves codes: one scale for its input and output.
Ability move_row(std::string_view op, std::vector<std::string_view> activations, std::vector<Need> needs = {});
/// What makes Gemm a plain product with a bias.
std::vector<Need> plain_gemm();
/// MatMul and Gemm on MatMulNBits with weights in `weights` (and activations in `activations` inside, where any), and
/// tables on GatherBlockQuantized; in this order.
std::vector<Ability> weight_only_rows(const std::vector<std::string_view>& weights,
                                      const std::vector<std::string_view>& activations);

/// Weight codes in blocks along the reduction: MatMul and Gemm to MatMulNBits, Gather to GatherBlockQuantized.
void lower_matmul_nbits(Lowering&);
/// MatMul and Gemm with weights in nf4 or fp4 in whole groups to MatMulBnb4.
void lower_matmul_bnb4(Lowering&);
/// How DequantizeLinear gets its scales: as float numbers, both levels multiplied out; or in their own format, with a
/// DequantizeLinear of their own where they have a second level.
enum class Scales : std::uint8_t { floats, as_decided };
/// MatMul and Gemm that no rule before it took, and recurrent operators: DequantizeLinear with block_size before them.
void lower_blocks(Lowering&, Scales = Scales::floats);
/// Static decisions: QuantizeLinear and DequantizeLinear pairs, which the runtime fuses into integer kernels.
/// A MatMul with a float result becomes MatMulIntegerToFloat of com.microsoft unless `only_standard`.
void lower_static(Lowering&, bool only_standard);

}  // namespace qtool::onnx_form

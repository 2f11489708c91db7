// SPDX-License-Identifier: Apache-2.0
// The ONNX Runtime CPU provider as a target, and the rules that write a graph for it. Each rule takes the nodes whose
// decisions it understands and leaves the rest alone.
#pragma once

#include "backends/ort_cpu/lowering.h"
#include "formats/target.h"

namespace qtool {

Target ort_cpu_target();

namespace ort_cpu {

/// MatMulNBits was seen to run from this operator set on; older files are raised to it.
constexpr std::int64_t contrib_opset = 17;

/// What all providers of ONNX Runtime share: version, newest operator set and IR, domains.
Target onnx_runtime();
/// MatMul and Gemm on MatMulNBits with weights in `weights` (and activations in `activations` inside, where any), and
/// tables on GatherBlockQuantized; in this order.
std::vector<Ability> weight_only_abilities(const std::vector<std::string_view>& weights,
                                           const std::vector<std::string_view>& activations);

/// What the runtime's kernels take.
std::vector<KernelCost> rates();

/// Weight codes in blocks along the reduction: MatMul and Gemm to MatMulNBits, Gather to GatherBlockQuantized.
void lower_weight_only(Lowering&);
/// Activations quantized at run time: DynamicQuantizeMatMul, or DynamicQuantizeLinear and MatMulIntegerToFloat.
void lower_dynamic(Lowering&);
/// Everything else: QuantizeLinear and DequantizeLinear pairs, which the runtime fuses into integer kernels.
/// A MatMul with a float result becomes MatMulIntegerToFloat of com.microsoft unless `only_standard`.
void lower_static(Lowering&, bool only_standard);
/// The groups of pairs that the runtime would fuse, as the operators it would make of them (form qoperator).
void fuse_pairs(Lowering&);

}  // namespace ort_cpu
}  // namespace qtool

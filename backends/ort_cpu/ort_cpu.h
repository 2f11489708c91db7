// SPDX-License-Identifier: Apache-2.0
// The ONNX Runtime CPU provider as a target, and the rules for what only it has.
#pragma once

#include "backends/onnx/rules.h"
#include "formats/target.h"

namespace qtool {

Target ort_cpu_target();

namespace ort_cpu {

using namespace onnx_form;

/// What all providers of ONNX Runtime share: version, newest operator set and IR, domains.
Target onnx_runtime();

/// What the runtime's kernels take.
std::vector<KernelCost> rates();

/// Activations quantized at run time: DynamicQuantizeMatMul, or DynamicQuantizeLinear and MatMulIntegerToFloat.
void lower_dynamic(Lowering&);
/// The groups of pairs that the runtime would fuse, as the operators it would make of them (form qoperator).
void fuse_pairs(Lowering&);

}  // namespace ort_cpu
}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// The reference reading of a file that was written quantized: its weights as they are, its activations in float. What
// it differs from the float model by is the weights' share of the error; the rest is the activations'.
#pragma once

#include "formats/ir/graph.h"

namespace qtool {

/// The graph without the quantization of what flows: pairs of QuantizeLinear (or DynamicQuantizeLinear) and
/// DequantizeLinear are taken out, operators between them that only move codes run on floats, kernels that multiply
/// codes and give floats (MatMulIntegerToFloat, DynamicQuantizeMatMul) become MatMul on dequantized weights, and
/// MatMulNBits keeps its activations float. Error(Code::input) naming a node that can compute on codes only
/// (QLinearConv, ...). A float graph comes back as it is.
Graph without_activation_quantizers(const Graph&);

}  // namespace qtool

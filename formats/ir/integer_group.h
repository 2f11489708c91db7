// SPDX-License-Identifier: Apache-2.0
// Groups DequantizeLinear -> operator -> QuantizeLinear that runtimes run as one operator on codes (onnxruntime: its
// transformers of QDQ groups). Emitters write them so; the executor runs them so.
#pragma once

#include <optional>
#include <vector>

#include "formats/ir/graph.h"

namespace qtool {

/// A value as codes with their parameters.
struct Coded {
  ValueId codes = ValueId::none, scale = ValueId::none, zero_point = ValueId::none;
};

/// The codes behind `v` where a DequantizeLinear with a zero point makes it.
std::optional<Coded> coded(const Graph&, const Links&, ValueId v);

/// The codes that the only reader of `v`, a QuantizeLinear with a zero point, makes of it; past a Relu or Clip that
/// cuts nothing off which the range of the codes does not.
std::optional<Coded> quantized(const Graph&, const Links&, ValueId v);

/// True when this Relu or Clip, in front of a quantizer, changes no code.
bool cuts_nothing(const Graph&, const Node& relu_or_clip, const Coded&);

/// An operator between such operators as one operator on codes.
struct IntegerGroup {
  Node node;  // QLinearConv, QLinearMatMul, MatMulIntegerToFloat, QGemm, ...; named as the operator was
  NodeId last = NodeId::none;   // the node of the graph that makes the same output
  std::vector<ValueId> inside;  // float values that it does without
};

/// The group of operator `n`: Conv, MatMul, Gemm; Add, Mul, LeakyRelu, Sigmoid (QLinearAdd, ...). Only for constant
/// scales and zero points, 8-bit codes, and a bias in int32 whose scale is the product of the operands'.
std::optional<IntegerGroup> integer_group(const Graph&, const Links&, NodeId n);

/// The same of an operator that takes elements elsewhere or picks some (Reshape, MaxPool, Concat, ...) where scale and
/// zero point in front and behind are the same: the operator itself, on codes.
std::optional<IntegerGroup> moved_codes(const Graph&, const Links&, NodeId n);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// What the nodes of a written model read, seen alike in every form that models are written in: a constant or an
// activation, as numbers or as codes with scales. Pairs of QuantizeLinear and DequantizeLinear are looked through, and
// so are operators that take codes themselves (QLinearConv, QLinearMatMul, QGemm, MatMulNBits, DynamicQuantizeMatMul,
// MatMulIntegerToFloat), whose operands count as those of Conv, MatMul and Gemm.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

struct NodeInput {
  int input = 0;  // of the operator in float; -1 - i: the i-th value that bodies capture
  bool constant = false;
  std::string tensor;        // constants: what holds codes or numbers; activations: where they come from, before codes
  std::string format;        // "f32", "i8", "u4", "4 bits"; activations that are as they were: empty
  Shape shape;               // of constants
  int axis = -1;             // that scales lie along; -1: one for all
  std::int64_t group = 0;    // neighbours along it that share one; 0: each has its own
  Tensor codes;              // one element each, or the numbers where nothing is coded; constants only
  Tensor scale, zero_point;  // f32, any integer; empty: none
  NodeId dequantizer = NodeId::none;  // DequantizeLinear over a constant
};

/// True for the nodes that values are looked through: they are not nodes of their own.
bool is_conversion(const Node&);
/// "Conv" for QLinearConv; the operator itself where there is no such thing.
std::string float_operator(const Node&);
/// Operands of a node, in order of `input`.
std::vector<NodeInput> inputs_of(const Graph&, const Links&, NodeId);
/// What a constant stands for, as f32; empty where that is not computed (strings, operators that calib refuses).
Tensor real_numbers(const Graph&, const NodeInput&, Threads&);

}  // namespace qtool

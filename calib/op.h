// SPDX-License-Identifier: Apache-2.0
// OpDef: one operator: what comes out (infer), how it is computed (forward), how gradients flow back
// (backward). One file per family under ops/, one line per operator in ops/list.inc.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

/// What an operator sees when it runs. Inputs left out are empty tensors. Errors are Error(Code::input) with a
/// sentence about the operands; the executor adds the node's name.
class OpContext {
 public:
  const Node& node;
  std::int64_t opset;              // of the node's domain
  std::span<const Tensor> inputs;  // as many as the node lists
  std::vector<Tensor>& outputs;    // sized to the node's outputs; empty names included
  Threads& threads;
  /// Runs a body graph of this node on `feeds` (one per body.inputs; captured values are bound by the executor).
  const std::function<std::vector<Tensor>(const Graph& body, std::vector<Tensor> feeds)>& run_body;

  /// The input, or an empty tensor when it is absent or left out.
  const Tensor& in(std::size_t i) const;
  bool has(std::size_t i) const { return !in(i).empty(); }
  /// True when somebody wants output i.
  bool wants(std::size_t i) const { return i < node.outputs.size() && node.outputs[i] != ValueId::none; }
  void out(std::size_t i, Tensor t) const;  // ignored when nobody wants it
  const Attrs& attrs() const { return node.attrs; }
};

/// Gradients: given d(loss)/d(output), fill d(loss)/d(input) (empty where gradients stop: integers, indices).
struct BackwardContext {
  const Node& node;
  std::int64_t opset;
  std::span<const Tensor> inputs, outputs;   // values of the forward run
  std::span<const Tensor> output_gradients;  // empty: nobody asked, treat as zero
  std::vector<Tensor>& input_gradients;      // sized to the inputs
  Threads& threads;
};

/// Types of the outputs from the types of the inputs (and from constants: shapes, axes).
struct InferContext {
  const Node& node;
  std::int64_t opset;
  std::span<const Type> inputs;
  std::span<const Tensor> constants;  // data of constant inputs; empty tensors otherwise
  std::vector<Type>& outputs;         // preset to unknown
};

struct OpDef {
  std::string_view name, domain;
  int since;                     // oldest opset whose meaning `forward` covers
  void (*infer)(InferContext&);  // null: nothing is known before running
  void (*forward)(const OpContext&);
  void (*backward)(BackwardContext&);  // null: gradients stop here
};

/// Null when qtool has no such operator ("" and "ai.onnx" are one domain).
const OpDef* find_op(std::string_view domain, std::string_view name);
std::span<const OpDef* const> ops();

/// Fills Value::type of every value that the inputs' types and the constants determine; declared types stay
/// where nothing better is known.
void infer_types(Graph&);

namespace op {
#define QTOOL_OP(name) extern const OpDef name;
#include "calib/ops/list.inc"
#undef QTOOL_OP
}  // namespace op

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// OpDef: one operator: what comes out (infer), how it is computed (forward), how gradients flow back
// (backward). One file per family under ops/, one line per operator in ops/list.inc.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

/// What an operator makes of a constant operand once, for all runs. Thread-safe.
class Prepared {
 public:
  explicit Prepared(std::int64_t floats) : memory_(Tensor::unset(DType::f32, {floats})) {}
  /// The memory, filled by fill(float*) when it is first asked for.
  template <class Fill>
  const float* get(const Fill& fill) {
    std::call_once(once_, [&] { fill(memory_.write<float>().data()); });
    return memory_.read<float>().data();
  }

 private:
  std::once_flag once_;
  Tensor memory_;
};

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
  std::span<Prepared* const> prepared = {};  // by operand; empty: nothing was prepared

  /// What is kept for operand i. Null unless it is constant and OpDef::prepares asked for it.
  Prepared* kept(std::size_t i) const { return i < prepared.size() ? prepared[i] : nullptr; }

  /// The input, or an empty tensor when it is absent or left out.
  const Tensor& in(std::size_t i) const;
  bool has(std::size_t i) const { return !in(i).empty(); }
  /// True when somebody wants output i.
  bool wants(std::size_t i) const { return i < node.outputs.size() && node.outputs[i] != ValueId::none; }
  void out(std::size_t i, Tensor t) const;  // ignored when nobody wants it
  /// A tensor to write a result to: the bytes of input i when this is their last use and type and shape agree
  /// (elements then still hold the input), else a new one.
  Tensor reuse(std::size_t i, DType dtype, const Shape& shape) const;
  const Attrs& attrs() const { return node.attrs; }
};

/// Gradients: given d(loss)/d(output), fill d(loss)/d(input) (empty where gradients stop: integers, indices).
/// Gradients are float32, and float inputs and outputs come as float32 whatever their type was.
struct BackwardContext {
  const Node& node;
  std::int64_t opset;
  std::span<const Tensor> inputs, outputs;   // values of the forward run
  std::span<const Tensor> output_gradients;  // empty: nobody asked, treat as zero
  std::vector<Tensor>& input_gradients;      // sized to the inputs
  Threads& threads;
  std::span<const std::uint8_t> wanted = {};  // by input: 0 where its gradient would be thrown away; empty: all wanted

  const Tensor& in(std::size_t i) const;
  bool has(std::size_t i) const { return !in(i).empty(); }
  /// Gradient of output i; empty when nobody asked.
  const Tensor& grad(std::size_t i) const { return output_gradients[i]; }
  bool wants(std::size_t i) const { return i < inputs.size() && has(i) && (wanted.empty() || wanted[i] != 0); }
  const Attrs& attrs() const { return node.attrs; }
};

/// Types of the outputs from the types of the inputs (and from constants: shapes, axes).
struct InferContext {
  const Node& node;
  std::int64_t opset;
  std::span<const Type> inputs;
  std::span<const Tensor> constants;  // data of constant inputs; empty tensors otherwise
  std::vector<Type>& outputs;         // preset to unknown
  /// Types of the outputs of the body in attribute `name`, given those of its inputs (bodies of If, Loop, Scan).
  const std::function<std::vector<Type>(std::string_view name, const std::vector<Type>& inputs)>& infer_body;

  /// The input's type, or an unknown one when it is absent or left out.
  const Type& in(std::size_t i) const;
  const Tensor& constant(std::size_t i) const;  // empty: not a constant
  bool has(std::size_t i) const { return i < node.inputs.size() && node.inputs[i].value != ValueId::none; }
  void out(std::size_t i, Type t) const;  // ignored when there is no such output
  void out(std::size_t i, DType dtype) const;
  void out(std::size_t i, DType dtype, Shape shape) const;
  const Attrs& attrs() const { return node.attrs; }
};

struct OpDef {
  std::string_view name, domain;
  int since;                     // oldest opset whose meaning `forward` covers
  void (*infer)(InferContext&);  // null: nothing is known before running
  void (*forward)(const OpContext&);
  void (*backward)(BackwardContext&);  // null: gradients stop here
  /// Floats that `forward` keeps from run to run (OpContext::kept) for constant operand `i`; made of nothing else, as
  /// nodes that share the constant share them. Null: none.
  std::int64_t (*prepares)(const Node&, std::size_t i, const Tensor& constant) = nullptr;
};

/// The ai.onnx opset of which qtool knows the meaning of every operator that it has.
inline constexpr std::int64_t newest_opset = 28;

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

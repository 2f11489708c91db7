// SPDX-License-Identifier: Apache-2.0
// Target: what a runtime really executes in low precision, as plain data, so that a pass can ask "can this be
// carried?" without knowing any backend. Versions and instruction sets are part of a target: nothing newer
// than `max_opset` and `max_ir` is written for it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/ir/graph.h"
#include "formats/latency.h"

namespace qtool {

/// A refusal is data, with its reason.
struct Support {
  bool ok = true;
  std::string why;
  explicit operator bool() const { return ok; }
};

/// What quantizing an operator means for a runtime's fusion rules.
enum class Role : std::uint8_t {
  product,      // Conv, MatMul, Gemm: quantized activation and weight, integer kernel
  arithmetic,   // Add, Mul, pools, Sigmoid, ...: all float inputs and the output quantized, own scales
  move,         // Reshape, Transpose, MaxPool, ...: input and output share one scale and zero point
  weight_only,  // MatMulNBits and its like: weight codes, float activations
  dynamic,      // activations quantized at run time
};

/// An attribute that must have one value for a row to hold; a node without it has `otherwise`.
struct Need {
  std::string_view attribute;
  std::variant<std::int64_t, float, std::string_view> value, otherwise;
};

/// One row of a target's table: "this operator, in this role, under these conditions".
struct Ability {
  std::string_view op, domain;
  Role role;
  std::vector<int> data_inputs;  // positions that carry the quantized activations (Concat: {-1} = all)
  int weight_input = -1;         // position of the constant weight
  int second_weight = -1;        // weight_only: another constant weight (R of recurrent operators)
  bool batched_weights = false;  // weight_only: weights of more than two dimensions, the last two a matrix
  int bias_input = -1;
  bool needs_output_quant = false;  // fuses only with Q behind (Conv), else optional (MatMul)
  bool fixed_output = false;        // Softmax, Sigmoid: output scale 1/256, zero point at the lowest code
  bool needs_constant_weight = false;
  std::vector<std::string_view> activation_formats;  // names of number formats, best first
  std::vector<std::string_view> weight_formats;
  std::vector<int> weight_axes;      // legal per-channel axes of the weight as stored; -1: last
  std::vector<std::int64_t> groups;  // legal group sizes for weight_only; empty: none
  bool whole_groups = false;         // weight_only: the reduction is a multiple of the group
  /// Why a product of these extents (-1: not known) is better left float; empty: it is not. Null: never.
  std::string_view (*unfit)(const Node&, const Shape& input, const Shape& weight) = nullptr;
  std::vector<Need> needs;  // attributes that the kernel insists on
  std::string_view kernel;  // what the runtime makes of a product, in its own words
  std::string_view note;    // one line for `qtool targets`
};

/// How the runtime computes, so that the quantized reading can reproduce it.
struct Arithmetic {
  /// MatMulNBits accuracy level 4: activations are quantized to int8 per block of K inside the kernel.
  int weight_only_activation_bits = 0;  // 0: float activations
  /// Whether it does so for such weights: for 2 bits it has kernels for blocks of 32 to 128 alone.
  bool quantizes_inside(int weight_bits, std::int64_t block) const {
    return weight_only_activation_bits != 0 && (weight_bits != 2 || (block >= 32 && block <= 128));
  }
};

struct Target {
  std::string name, runtime, version;  // "ort-cpu", "ONNX Runtime", "1.31"
  std::string instruction_set;         // "avx512-vnni", ...: what the table was measured on
  std::int64_t max_opset = 0, max_ir = 0;
  std::vector<std::string> domains;  // custom domains it runs
  std::vector<Ability> abilities;
  /// Methods of assign_formats that make nothing faster or smaller here, with the reason: asking for one is an error.
  std::vector<std::pair<std::string_view, std::string_view>> refused_methods;
  std::vector<KernelCost> costs;  // empty: nothing is known about speed
  Arithmetic arithmetic;
  /// The runtime quantizes float-weight Conv/Gemm between DQ and Q by itself (trap 2).
  bool rewrites_float_layers = false;
  /// int8 activations are written as uint8 with the zero point 128 higher: the same numbers. The runtime does that
  /// itself on x86, but not for values with several readers.
  bool unsigned_activations = false;
  /// Activations have no zero points, not even behind a Relu.
  bool symmetric_activations = false;
  /// An Add fuses into the Conv behind one of its operands when the other one, the shortcut, is read as codes.
  bool quantized_shortcuts = false;
  /// LayerNormalization and RMSNormalization run as one layer, in float32 whatever the type of the model.
  bool normalization_layers = false;
  /// U8S8 products saturate at 16 bits (no VNNI): weights get 7 bits.
  bool saturating_u8s8 = false;

  /// The row for `node` in `role`; null: the runtime has no such kernel.
  const Ability* find(const Node& node, Role role) const;
  /// Whether `node` can run in `role` with these formats (names; empty: not asked), with the reason if not.
  Support accepts(const Node& node, Role role, std::string_view activation, std::string_view weight) const;
  /// The format of static activations nearest to the one wished for: itself where any kernel takes it, else the first
  /// one that a kernel takes instead.
  std::string_view activation_instead_of(std::string_view wished) const;
};

}  // namespace qtool

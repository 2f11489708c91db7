// SPDX-License-Identifier: Apache-2.0
// QuantizeLinear and DequantizeLinear one by one: shapes and types of scales, zero points and codes, axes and blocks
// (onnx-quantized.md sections 2 and 5).
#include <algorithm>

#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

class Pair {
 public:
  Pair(const Scene& s, const NodeView& n)
      : s_(s),
        n_(n),
        p_(s.parameters(n, 1, 2)),
        codes_(n.op == "DequantizeLinear" ? s.constant(n, 0) : nullptr),
        x_(s.constant(n, 0)) {}

  void run() const {
    if (p_.scale == nullptr) return;  // computed while it runs
    check_scale(s_, n_, *p_.scale);
    types();
    zero_points();
    layout();
    padding();
  }

 private:
  void add(const std::string& what, const std::string& advice) const { s_.findings.add(n_, what, advice); }

  void types() const {
    if (codes_ != nullptr && is_real(codes_->type)) {
      add("it dequantizes " + name_of(codes_->type) + " numbers, not codes", "store the codes");
    }
    if (p_.zero != nullptr && codes_ != nullptr && p_.zero->type != codes_->type) {
      add("codes and zero point differ in type: " + name_of(codes_->type) + " and " + name_of(p_.zero->type),
          "give the zero point the type of the codes");
    }
    const bool powers = p_.scale != nullptr && p_.scale->type == e8m0;  // no type that is computed in
    if (n_.integer("output_dtype", 0) != 0 && n_.op == "DequantizeLinear" && codes_ != nullptr && !powers) {
      add("output_dtype on a constant keeps the runtime from loading the model where a product reads it",
          "give the scale the type that is computed in");
    }
    if (s_.target.symmetric_activations && p_.zero != nullptr && p_.zero->type == u8) {
      add(s_.target.runtime + " reads uint8 codes as int8", "use int8 codes about 0");
    }
  }

  void zero_points() const {
    if (p_.zero == nullptr) return;
    const TensorView& zero = *p_.zero;
    if (zero.count() != p_.scale->count()) {
      add("it has " + counted(p_.scale->count(), "scale") + " and " + counted(zero.count(), "zero point"),
          "write one zero point per scale, in the same shape");
      return;
    }
    const bool single = zero.count() == 1;
    if (!single && zero.dims != p_.scale->dims) {
      add("its zero points have the shape " + shape_text(zero.dims) + ", its scales " + shape_text(p_.scale->dims),
          "give both the same shape");
    }
    const bool none = zero.type == i32 || s_.target.symmetric_activations;
    if (!none || (zero.type != i32 && !is_code(zero.type))) return;
    for (std::int64_t i = 0; i < zero.count(); ++i) {
      if (zero.at(i) == 0) continue;
      add(zero.type == i32 ? "int32 codes have a zero point" : s_.target.runtime + " takes no zero points but 0",
          "use codes about 0");
      return;
    }
  }

  void layout() const {
    const std::int64_t scales = p_.scale->count(), block = n_.integer("block_size", 0);
    if (x_ == nullptr || (scales == 1 && block == 0)) return;
    const auto rank = static_cast<std::int64_t>(x_->dims.size());
    std::int64_t axis = n_.integer("axis", 1);
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) {
      add("its axis " + std::to_string(n_.integer("axis", 1)) + " is outside the codes, which have the shape " +
              shape_text(x_->dims),
          "write axis 0 for a bias, the axis of the output channels for a weight");
      return;
    }
    const std::int64_t extent = x_->dims[static_cast<std::size_t>(axis)];
    if (block == 0) {
      if (p_.scale->dims.size() == 1 && scales == extent) return;
      add("it has " + std::to_string(scales) + " scales for " + std::to_string(extent) + " channels on axis " +
              std::to_string(axis),
          "write one scale per index of the axis, as a row");
      return;
    }
    std::vector<std::int64_t> shape = x_->dims;
    shape[static_cast<std::size_t>(axis)] = block > 0 ? extent / block + (extent % block != 0 ? 1 : 0) : 0;
    if (block < 0 || p_.scale->dims != shape) {
      add("its scales have not the shape of the blocks: " + shape_text(p_.scale->dims) + " for " + shape_text(shape) +
              " blocks of " + std::to_string(block) + " on axis " + std::to_string(axis),
          "write one scale per block, not transposed");
    }
  }

  void padding() const {
    for (const TensorView* t : {codes_, p_.zero}) {
      if (t == nullptr || !t->raw || t->bytes.empty()) continue;
      const int bits = bits_of(t->type);
      if (bits != 4 && bits != 2) continue;
      const auto used = static_cast<unsigned>(t->count() * bits % 8);
      if (used != 0 && (std::to_integer<unsigned>(t->bytes.back()) >> used) != 0) {
        add("the bits behind the last code of \"" + std::string(t->name) + "\" are not zero",
            "pack the first code into the lowest bits and fill up with zeros");
      }
    }
  }

  const Scene& s_;
  const NodeView& n_;
  const Parameters p_;
  const TensorView* codes_;
  const TensorView* x_;  // the constant operand: codes, or numbers that are quantized while it runs
};

}  // namespace

void check_pairs(const Scene& s) {
  for (const NodeView& n : s.graph.nodes) {
    if (n.is("QuantizeLinear") || n.is("DequantizeLinear")) Pair(s, n).run();
  }
}

}  // namespace qtool::verify

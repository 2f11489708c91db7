// SPDX-License-Identifier: Apache-2.0
// Replay: what the weight and the bias of a product of the float model must have become, computed anew from the model
// and the list of folds that were applied. In double, rounded to the weight's type after every fold.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "backends/verify/numbers.h"

namespace qtool::verify {

struct Fold {
  enum class Kind : std::uint8_t {
    behind,     // the affine step `node` followed:  W'[o] = a[o] W[o],  c'[o] = a[o] c[o] + b[o]
    before,     // it preceded:  W'[:, i] = a[i] W[:, i],  c'[o] = c[o] + sum_i W[o, i] b[i]
    equalized,  // W'[o, i] = outputs[o] W[o, i] inputs[i],  c'[o] = outputs[o] c[o]
    shifted,    // c'[o] = c[o] + outputs[o]
  };
  Kind kind = Kind::behind;
  const NodeView* node = nullptr;       // of the model
  std::vector<double> outputs, inputs;  // empty: ones
};

struct Floats {
  Numbers weight;
  bool folded = false;                      // the weight is not as stored
  std::optional<std::vector<double>> bias;  // per output channel, zeros where there is none; empty: not known
  bool bias_moved = false;
  std::string why;  // not empty: nothing could be computed
};

/// A weight as the product reads it: [a, b, taps], rows are output channels or input channels.
struct Layout {
  std::int64_t a = 0, b = 0, taps = 1, groups = 1;
  bool out_first = false;
  std::int64_t outputs() const { return out_first ? a : b * groups; }
  std::int64_t inputs() const { return out_first ? b * groups : a; }
};
std::optional<Layout> layout_of(const NodeView& product, const std::vector<std::int64_t>& weight);

/// The Add of a constant behind a product without bias of its own (MatMul); null: none.
const NodeView* added_behind(const Scene& model, const NodeView& product);
/// The input of a node of two inputs that is constant; empty: none.
std::optional<std::size_t> constant_side(const Scene& model, const NodeView& n);

Floats replay(const Scene& model, const NodeView& product, std::span<const Fold> folds);

/// Folds of batch normalizations and affine steps that follow from the two graphs alone: the step is in the model, and
/// `is_kept` does not find it in the file.
std::vector<Fold> folds_between(const Scene& model, const NodeView& product,
                                const std::function<bool(const NodeView&)>& is_kept);

}  // namespace qtool::verify

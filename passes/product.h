// SPDX-License-Identifier: Apache-2.0
// Product: the linear operators (Conv, ConvTranspose, Gemm, MatMul) seen alike: a constant weight whose elements join
// an input channel to an output channel, and a bias per output channel. A stored weight is read as [a, b, taps]:
//
//   Conv           [out, in/groups, taps]     rows are output channels
//   ConvTranspose  [in, out/groups, taps]
//   Gemm, MatMul   [in, out], Gemm with transB [out, in]
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/ir/graph.h"
#include "passes/rewrite.h"

namespace qtool {

struct Product {
  NodeId node = NodeId::none;
  std::int64_t a = 0, b = 0, taps = 1, groups = 1;
  bool out_first = false;  // a counts output channels
  bool spatial = false;    // Conv, ConvTranspose: channels on axis 1 of input and output; else on the last axis
  bool takes_bias = true;  // false: MatMul, whose bias is an Add behind it
  std::int64_t out_channels() const { return out_first ? a : b * groups; }
  std::int64_t in_channels() const { return out_first ? b * groups : a; }
  /// Axis of the stored weight that output channels (ConvTranspose: those of one group) lie on.
  int weight_axis() const { return out_first ? 0 : 1; }

  static constexpr std::size_t weight_input = 1, bias_input = 2;

  /// f(output channel, input channel, element) for every element of the weight, in storage order.
  template <class F>
  void for_each(const F& f) const {
    std::size_t element = 0;
    for (std::int64_t i = 0; i < a; ++i) {
      const std::int64_t base = i / (a / groups) * b;
      for (std::int64_t j = 0; j < b; ++j) {
        for (std::int64_t t = 0; t < taps; ++t, ++element) {
          const auto one = static_cast<std::size_t>(i), other = static_cast<std::size_t>(base + j);
          out_first ? f(one, other, element) : f(other, one, element);
        }
      }
    }
  }
};

/// Empty when `node` is no such operator, or its weight is no fixed constant of a float type, or its shape does not
/// fit the operator (MatMul and Gemm: rank 2).
std::optional<Product> product_of(const Graph&, NodeId);

/// The bias as one number per output channel, Gemm's beta applied: zeros when there is none. Empty when it is no fixed
/// constant, differs between rows, or has another size.
std::optional<std::vector<double>> bias_of(const Graph&, const Product&);
/// Sets the bias, adding the input where the operator takes one and has none (Gemm's beta becomes 1). False, and
/// nothing changed, when a number does not fit the type of the weight. Requires: takes_bias.
bool set_bias(Graph&, const Product&, std::span<const double> bias);

/// The weight with every element multiplied by its output channel's and its input channel's factor (empty: ones).
/// Empty optional when a number does not fit the weight's type.
std::optional<Tensor> scaled_weight(const Tensor& weight, const Product&, std::span<const double> by_output,
                                    std::span<const double> by_input);

/// The Add of a constant behind a product without bias of its own (MatMul), when it is the only consumer. Never for a
/// product that takes one.
struct AddedBias {
  NodeId node = NodeId::none;
  std::size_t input = 0;  // of the constant
};
std::optional<AddedBias> added_bias(const Graph&, const Links&, const Product&);

/// A constant as one number per channel, when it varies along no other axis of a value of rank `rank` whose channels
/// lie on `axis` (negative: from the back). A single number is repeated. Empty when it does not fit.
std::optional<std::vector<double>> per_channel(const Tensor& constant, std::int64_t channels, std::int64_t rank,
                                               std::int64_t axis);

}  // namespace qtool

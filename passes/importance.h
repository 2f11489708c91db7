// SPDX-License-Identifier: Apache-2.0
// Importance: what the inputs of each weight weigh, as importance matrices of llama.cpp tell it
// (formats/file/imatrix.h): collected on data, and taken up by passes. Entries are named as the weights are.
//
// A weight of a Conv, ConvTranspose, Gemm or MatMul (passes/product.h) has one number per input channel; those of one
// group of channels are a matrix. The taps of a kernel share their channel's number.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "calib/observe.h"
#include "formats/base/journal.h"
#include "formats/file/imatrix.h"
#include "formats/ir/graph.h"
#include "passes/product.h"

namespace qtool {

/// Sums of squares of the inputs of every product's weight, over all data; those of all its users for a shared one. The
/// journal has a skip for weights whose inputs nobody saw. Error(Code::calibration) where none was seen, and for inputs
/// that are not finite, naming the weight.
Imatrix collect_importance(const Graph&, Calibration&, Journal&);

/// A file for the weights of one graph.
class Importance {
 public:
  /// `products`: those whose weights are asked for. Journal: a warning of `pass` and a fact "importance" with the names
  /// of weights that have no entry. Error(Code::input) where the file is broken, where it has no entry for any of them,
  /// and where an entry is wider or narrower than its weight.
  Importance(const std::string& path, const Graph&, std::span<const Product> products, std::string_view pass, Journal&);

  /// Mean square of each input channel; ones for a weight without entry.
  std::vector<double> squares(const Graph&, const Product&) const;
  /// Tokens behind them, at most; 1 for a weight without entry.
  double tokens(const Graph&, const Product&) const;

 private:
  const Imatrix::Entry* entry(const Graph&, const Product&) const;
  Imatrix all_;
};

/// How much each element of a weight counts when the inputs have these mean squares: float32, shape of the weight.
Tensor weight_of_elements(const Graph&, const Product&, std::span<const double> squares);

}  // namespace qtool

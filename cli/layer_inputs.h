// SPDX-License-Identifier: Apache-2.0
// Rows of what enters products of the float model, from the first batch of the calibration data: what the errors of
// outputs in the lock are measured on (formats/lock.h).
#pragma once

#include <optional>
#include <set>
#include <stop_token>
#include <string>

#include "backends/verify/verify.h"
#include "calib/data.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Runs `model`, which `data` were opened for, on one batch, for the products among `nodes` (Conv, Gemm, MatMul). Up
/// to 8 rows each, evenly spread over those of the batch. What is no such product, or has rows that are not finite,
/// is left out.
LayerInputs layer_inputs(const Graph& model, const std::set<std::string, std::less<>>& nodes, const Dataset& data,
                         Threads&, const std::stop_token&);

/// 10 log10(|X W|^2 / |X (W - W^)|^2) of a product as `decided`, X: rows of layer_inputs(), divided by `divisors` per
/// input channel (empty: ones). Every s-th output channel counts, s the least that leaves at most 2^18 weights. Empty:
/// no error, or these are no inputs of the product.
std::optional<double> output_error_db(const Node& decided, const Tensor& weight, const Tensor& coded,
                                      const InputRows& rows, std::span<const double> divisors, Threads&);

}  // namespace qtool

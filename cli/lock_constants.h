// SPDX-License-Identifier: Apache-2.0
// What a lock tells of constants that are held as codes: hashes, scales, and the errors that the codes make.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cli/layer_inputs.h"
#include "formats/base/json.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "formats/ir/quant.h"
#include "formats/lock.h"

namespace qtool {

/// Three digits behind the point: what arithmetic of another order leaves alone.
double rounded_db(double db);

/// The error of a product's outputs that its codes make.
class OutputErrors {
 public:
  /// `folds`: of the lock. All outlive it.
  OutputErrors(const LayerInputs& inputs, const std::vector<Json>& folds, Threads& threads);
  /// Whether there are rows for it.
  bool can(const LockedUse& row) const;
  /// Requires: can(row).
  std::optional<double> operator()(const Node& product, const LockedUse& row, const Tensor& weight,
                                   const Tensor& coded) const;

 private:
  const LayerInputs& inputs_;
  std::map<std::string, std::vector<double>> divisors_;  // what equalize_layers divided inputs by, per channel
  std::set<std::string> unlike_;                         // nodes whose inputs are others than in the model
  Threads& threads_;
};

/// The scales and offsets of a spec.
void add_numbers(LockedUse& row, const QuantSpec& spec);
LockedNumbers numbers_of(const Tensor&);
/// All that a row tells of the constant `data`. `reader`: the node that reads it; null: none.
void add_constant(LockedUse& row, const QuantSpec& decided, const Tensor& data, const Node* reader,
                  const OutputErrors& outputs);

}  // namespace qtool

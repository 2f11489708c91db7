// SPDX-License-Identifier: Apache-2.0
// LayerInputs: what goes into the Hessians of layers: rows of their inputs, as a reading of the model has them, without
// tokens that only fill up a batch.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "calib/cross.h"
#include "calib/data.h"
#include "calib/hessian.h"
#include "passes/pass.h"
#include "passes/solve/layer.h"

namespace qtool::solve {

class LayerInputs {
 public:
  /// `quantized`: through the decisions on the inputs. At most `batches` batches, 0: all. Keeps references.
  LayerInputs(const Graph&, const PassContext&, bool quantized, const Dataset&, std::int64_t batches);

  /// Values of one batch, by id.
  using Values = std::function<Tensor(ValueId)>;
  /// The values that rows of a layer come of, but for constants beside its input.
  std::vector<ValueId> values_of(const Layer&) const;
  /// Layers that have the same see the same rows.
  std::string sight(const Layer&) const;

  static std::vector<Hessian> empty_sums(const Layer&, GramFormat);
  /// The rows of a batch into the sums of each matrix.
  void add(const Layer&, std::int64_t batch, const Values&, std::vector<Hessian>& sums) const;
  /// The same rows of the float model's inputs and of the quantized model's.
  void add_pairs(const Layer&, std::int64_t batch, const Values& floats, const Values& seen,
                 std::vector<CrossSum>& sums) const;

 private:
  std::vector<Tensor> inputs(const Layer&, const Values&, bool quantized) const;
  std::span<const float> without_padding(std::int64_t batch, const Layer&, std::span<const float> rows,
                                         std::vector<float>& some) const;

  const Graph& graph_;
  const PassContext& ctx_;
  bool quantized_;
  std::vector<std::vector<std::uint8_t>> masks_;  // by batch and token; empty: all tokens count
};

}  // namespace qtool::solve

// SPDX-License-Identifier: Apache-2.0
// walk_layers: takes a pass through the layers of a model, each with the Hessian of its inputs. What passes that choose
// codes by the error of outputs have in common; they say what to do with one group of layers that share their inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calib/cross.h"
#include "calib/hessian.h"
#include "passes/pass.h"
#include "passes/solve/layer.h"

namespace qtool::solve {

/// One weight to decide on.
struct Weight {
  std::vector<WeightPlace> places;  // all that use it: one, but for shared weights
  Layer layer;                      // of the first of them
  Tensor weight;                    // float32
  bool half = false;                // stored in float16, as scales beside it will be
  bool has_scales = false;          // chosen by an earlier pass: they stay
  std::shared_ptr<QuantSpec> spec;  // what was decided so far; solvers fill in scales and codes
};

/// Weights with the same inputs.
struct Together {
  std::vector<Weight> targets;
  std::vector<Hessian> hessians;  // by matrix of the layer
  std::vector<CrossSum> crosses;  // likewise, where WalkOptions::both asks for them
  std::optional<Digest> key;      // of what is kept of them (passes/solve/memo.h)
};

struct WalkOptions {
  std::string knobs;                 // of the pass, as text: what is kept for later runs depends on them
  std::string inputs = "quantized";  // "quantized": as the layers before put them out, codes and all; "float"
  bool both = false;                 // how inputs part from those of the float model, too; only for "quantized"
  std::int64_t samples = 0;          // of the calibration data; 0: all
  std::string products = "f32";      // of inputs, for Hessians: "f32"; "bf16": inputs are rounded to it first
  GramFormat format() const { return products == "bf16" ? GramFormat::bf16 : GramFormat::f32; }
  std::string importance;  // an importance matrix that stands for the inputs, and no data are run; empty: none
};

/// Layers whose weight has a decision and no codes, in the order of the graph, as far as the step selects them.
std::vector<Layer> open_layers(const Graph&, const PassContext&);

/// Their weights, each once, without a look at data.
std::vector<Weight> open_weights(const Graph&, const PassContext&);

/// Every use of a weight by a layer that has a decision and no codes, in the order of the graph. A weight that
/// several nodes use comes once, with the inputs of all of them, when the last one's are known; until then the others
/// run with nearest codes. Weights whose inputs nobody saw are left out, with a skip in the journal; so are all where
/// there are no data. An importance matrix makes diagonal Hessians in place of data, for products alone.
/// Error(Code::calibration) when none is left. `solve` fills in Weight::spec; where it leaves codes empty, later passes
/// decide.
void walk_layers(Graph&, PassContext&, std::string_view pass, const WalkOptions&,
                 const std::function<void(Together&)>& solve);

}  // namespace qtool::solve

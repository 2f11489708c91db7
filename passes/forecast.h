// SPDX-License-Identifier: Apache-2.0
// Forecast: the work that the steps of a recipe would do, as Pass::plan tells it. Prices are not its business.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "calib/executor.h"
#include "formats/ir/graph.h"

namespace qtool {

/// A layer whose codes come of the error of its outputs (passes/solve): `matrices` of [rows, columns] each.
struct ForecastSolve {
  ValueId seen = ValueId::none;  // a value of so many elements for each row of inputs
  std::int64_t elements = 1;
  std::int64_t matrices = 1, rows = 0, columns = 0;
  bool spatial = false;  // no more than so many patches of an image are looked at
  bool shares = false;   // inputs, Hessian and factors are those of the layer before
  bool crossed = false;  // how inputs part from those of the float model is summed up as well
  double factors = 1;    // of the Hessian, one for each order of the columns
  double tries = 1;      // times that all columns are gone through
};

/// Runs of a model over the calibration data.
struct ForecastSweep {
  std::string_view pass;
  Graph graph;
  Reading reading = Reading::reference;
  std::int64_t samples = 0;  // 0: all that there are
  std::int64_t times = 1;    // sweeps of this kind; 0: what is solved needs no data
  /// Values whose elements are all looked at, and by which method of ObserverOptions ("sum": a sum per channel).
  std::vector<ValueId> observed;
  std::string method;
  std::vector<ForecastSolve> solved = {};  // on the way
};

/// Elements of weights that a pass computes on. `kind`: "round", "search" (25 ranges are tried).
struct ForecastWeights {
  std::string_view kind;
  std::int64_t elements = 0;
};

/// What only a run can tell, and by how many bytes the file may differ from the planned one for it.
struct ForecastDoubt {
  std::string_view pass;
  std::string why;
  std::int64_t fewer = 0, more = 0;
};

/// A rule of the recipe that says what becomes of a node.
struct ForecastRule {
  NodeId node = NodeId::none;
  std::string place;
};

struct Forecast {
  std::vector<ForecastRule> rules;
  std::vector<ForecastSweep> sweeps;
  std::vector<ForecastWeights> weights;
  std::vector<ForecastDoubt> doubts;
};

}  // namespace qtool

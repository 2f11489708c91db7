// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "cli/bill.h"
#include "formats/ir/graph.h"
#include "passes/forecast.h"

namespace qtool {

/// One row per float constant of `decided`, in its order. `lowered`: what the emitter made of it. `decider`: the step
/// that decides where no rule does. `facts`: of the journal, for the reasons.
std::vector<BillTensor> bill_tensors(const Graph& decided, const Graph& lowered, const Forecast&,
                                     const std::string& decider, const std::vector<Json>& facts);

}  // namespace qtool

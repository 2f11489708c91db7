// SPDX-License-Identifier: Apache-2.0
// What the input model must be before work is spent on it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "formats/base/journal.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "formats/target.h"

namespace qtool {

/// Error(Code::input) naming node and weight when a constant holds NaN, or the weight of a product an infinity. One
/// thread calls `beside` meanwhile.
void check_weights(const Graph&, const Target&, Threads&, const std::function<void()>& beside);
/// A warning for every operator domain that the target does not run.
void warn_of_domains(const Graph&, const Target&, Journal&);
/// Bytes of the model file and of the weights outside it.
std::uint64_t model_bytes(const std::filesystem::path& file, const Graph&);

}  // namespace qtool

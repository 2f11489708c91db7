// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/rates.h"
#include "formats/base/threads.h"

namespace qtool {

/// Runs pieces of what jobs are made of, each a few times, and takes the median. `one`: one thread, with the integer
/// kernels that jobs use. Takes a few seconds.
Rates measure_rates(Threads& one);

}  // namespace qtool

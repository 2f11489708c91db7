// SPDX-License-Identifier: Apache-2.0
// Integer products on this processor: what the program hands to Threads.
#pragma once

#include "formats/base/integer_product.h"

namespace qtool {

/// On the best kernel that this processor runs; found once, lives as long as the program.
const IntegerKernels& best_integer_kernels();

}  // namespace qtool

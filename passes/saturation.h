// SPDX-License-Identifier: Apache-2.0
// What the readers of a value still tell apart: x * sigmoid(x) is nearly 0 for all x below -8, HardSwish is exactly 0
// below -3. A quantizer whose range leaves such tails out has finer steps where they matter.
#pragma once

#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "formats/number/number.h"

namespace qtool {

/// The lowest and the highest number of a value.
struct Bounds {
  float low = 0, high = 0;
};

/// The part of `seen` outside of which clipping `v` moves what its readers make of it, element by element, by an eighth
/// of a step (a fraction of the 0.29 that rounding costs) of `format` over the range of that result at most. Operators
/// are followed as long as all they read comes from `v` or is one constant number (Sigmoid and Mul, HardSwish, the Erf
/// form of Gelu). `seen` itself where any reader is of another kind or `v` is an output. Requires: finite, low < high.
Bounds told_apart(const Graph&, const Links&, ValueId v, Bounds seen, const NumberFormat& format, Threads&);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Convolution without a matrix of columns. The images of a task are laid out once, padded and with the strides taken
// apart, so that every tap of the kernel sees neighbouring outputs as neighbours in one long line per channel; tiles of
// output channels x positions (calib/ops/conv_tile.h) then run along that line.
#pragma once

#include "calib/ops/conv.h"
#include "formats/base/widest.h"

namespace qtool {

/// True when convolve_directly computes this one, and faster than by columns: one or two spatial axes, enough positions
/// to fill vectors, and a processor with tiles.
bool convolves_directly(const Convolution&);

/// As convolve(). Requires: convolves_directly(c). The bits of an output depend on nothing but its inputs: not on the
/// batch, nor on how the work is cut, nor on which of the vectors with tiles compute it.
void convolve_directly(Threads&, const Convolution&, const float* x, const float* kernel, const float* bias, float* y,
                       Vectors vectors = widest_floats());

}  // namespace qtool

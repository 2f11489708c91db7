// SPDX-License-Identifier: Apache-2.0
// Convolution with kernels of 3x3 taps by minimal filtering, F(4x4, 3x3) of Lavin and Gray (2015, arXiv:1509.09308): a
// tile of 4x4 outputs takes 36 products per pair of channels instead of 144. Input tiles and kernels are transformed,
// multiplied point by point and summed over the input channels, and the sums are transformed back.
#pragma once

#include "calib/ops/conv.h"
#include "formats/base/widest.h"

namespace qtool {

/// True when convolve_by_winograd computes this one, and faster than directly. By shape alone.
bool convolves_by_winograd(const Convolution&);

/// Floats of a transformed kernel of this shape; 0 where convolves_by_winograd() is false for images of any size.
std::int64_t winograd_floats(const Shape& kernel);

/// Kernel [M, C, 3, 3] transformed, for any number of convolutions. `to`: winograd_floats().
void transform_kernel(const Convolution& c, const float* kernel, float* to);

/// As convolve(). `transformed`: by transform_kernel(). Requires: kernels of 3x3, one group, no strides or dilations,
/// and convolves_directly(c). Errors are about twice those of sums in float one by one, relative to the largest outputs
/// of the tile. The bits of an output depend neither on threads nor on the batch nor on the width of vectors. An image
/// whose results are not all finite is convolved directly: infinities and NaN would spread over their tile.
void convolve_by_winograd(Threads&, const Convolution& c, const float* x, const float* kernel, const float* transformed,
                          const float* bias, float* y, Vectors vectors = widest_floats());

}  // namespace qtool

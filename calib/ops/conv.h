// SPDX-License-Identifier: Apache-2.0
// Convolution of images [N, C, spatial...] with kernels [M, C/groups, spatial...]: the computation, shared by Conv and
// its integer relatives.
#pragma once

#include <cstdint>

#include "calib/op.h"
#include "calib/ops/window.h"
#include "formats/base/threads.h"

namespace qtool {

struct Convolution {
  Window window;
  std::int64_t batch = 0, groups = 1;
  std::int64_t inputs = 0, outputs = 0;  // channels of one group
  std::int64_t depth() const { return inputs * window.kernel_size(); }
};

/// Error(Code::input) when image, kernel and attributes do not fit. `kernel`: [M, C/groups, spatial...].
Convolution convolution_of(const Attrs& attrs, const Shape& image, const Shape& kernel);

/// y[N, M, spatial...] = bias + kernel * x; bias [M] may be null. T: float or double. Same bytes for any thread count.
template <class T>
void convolve(Threads& threads, const Convolution& c, const T* x, const T* kernel, const T* bias, T* y);

/// The same by way of a matrix of columns and a product with it: slow for depthwise convolutions. What convolve() does
/// where no faster way fits.
template <class T>
void convolve_by_columns(Threads& threads, const Convolution& c, const T* x, const T* kernel, const T* bias, T* y);

/// Shape (and type `dtype`) of the result, for `infer` of Conv and its relatives. `image`, `kernel`: input positions.
void infer_convolution(InferContext& c, std::size_t image, std::size_t kernel, bool known_dtype, DType dtype);

/// The sums over batch and positions of a gradient [N, C, positions...] in float32, as a bias of shape `bias`.
Tensor bias_gradient(const Tensor& gradient, const Shape& bias);

}  // namespace qtool

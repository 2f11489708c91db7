// SPDX-License-Identifier: Apache-2.0
// Pooling over planes (images of one channel), shared by the float operators and their integer relatives.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/op.h"
#include "calib/ops/window.h"
#include "formats/base/threads.h"

namespace qtool {

/// The window of a pooling node over `image`, from kernel_shape, ceil_mode and the usual attributes.
Window pool_window_of(const Attrs& attrs, const Shape& image);

/// What each output position's sum is divided by, by position: taps inside the image, or with `include_pad` also those
/// in the declared padding.
std::vector<float> pool_divisors(const Window& w, bool include_pad);

/// Sums over the window divided by `divisors`. planes x input_size -> planes x output_size.
template <class T>
void average_pool(Threads& threads, const Window& w, std::int64_t planes, const std::vector<float>& divisors,
                  const T* x, T* y);

/// Mean of each plane of `size` values, summed in double.
template <class T>
void plane_means(Threads& threads, std::int64_t planes, std::int64_t size, const T* x, T* y);

/// Type of output 0 of a pooling node whose image is input `image`.
void infer_pool(InferContext& c, std::size_t image, bool known_dtype, DType dtype);
/// The same for the global kind: spatial extents 1.
void infer_global_pool(InferContext& c, std::size_t image, bool known_dtype, DType dtype);

}  // namespace qtool

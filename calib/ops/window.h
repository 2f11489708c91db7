// SPDX-License-Identifier: Apache-2.0
// Window: how a kernel slides over the spatial axes of an image [N, C, spatial...]. One to three axes; inside always
// three (depth, height, width), the missing ones of extent 1.
#pragma once

#include <array>
#include <cstdint>

#include "formats/ir/graph.h"

namespace qtool {

using Spatial = std::array<std::int64_t, 3>;

struct Window {
  std::size_t axes = 0;  // of the image: 1 to 3
  Spatial input{1, 1, 1}, output{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1};
  Spatial pad_begin{0, 0, 0}, pad_end{0, 0, 0};

  std::int64_t input_size() const { return input[0] * input[1] * input[2]; }
  std::int64_t output_size() const { return output[0] * output[1] * output[2]; }
  std::int64_t kernel_size() const { return kernel[0] * kernel[1] * kernel[2]; }
  /// A 1x1 kernel that visits every position once: the image is its own matrix of columns.
  bool is_pointwise() const;
  /// `leading` extents (batch, channels) followed by the output's spatial extents.
  Shape output_shape(std::int64_t batch, std::int64_t channels) const;
  /// Range [first, last) of output positions along `axis` for which tap `k` of the kernel lies inside the image.
  void valid(std::size_t axis, std::int64_t k, std::int64_t& first, std::int64_t& last) const;
};

/// From strides, dilations, pads and auto_pad. `image`: shape [N, C, spatial...]; `kernel`: spatial extents.
/// Error(Code::input) for attributes that make no sense or an output without extent. ceil_mode (pooling): the last
/// window may hang over the end, but must begin inside the image or its left padding.
Window window_of(const Attrs& attrs, const Shape& image, const Shape& kernel, bool ceil_mode = false);

/// Window of a transposed convolution from an image of shape `image`: input and output change roles, so `input` is the
/// larger image that the kernel slides over and `output` the extents of `image`.
Window transposed_window_of(const Attrs& attrs, const Shape& image, const Shape& kernel);

/// Spatial output extents when some of the image's are unknown (-1). Same rules as window_of and its twin.
Shape infer_window(const Attrs& attrs, const Shape& image, const Shape& kernel, bool ceil_mode, bool transposed);

/// Rows of the column matrix [channels * kernel, positions]: entry (c,k; p) is the image at tap k of output position p,
/// zero outside. Writes positions [first, last) with rows `ld` apart.
template <class T>
void image_to_columns(const Window& w, const T* image, std::int64_t channels, std::int64_t first, std::int64_t last,
                      T* columns, std::int64_t ld);

/// The adjoint, over all positions: adds columns to the image.
template <class T>
void add_columns_to_image(const Window& w, const T* columns, std::int64_t channels, std::int64_t ld, T* image);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// A window slid over one plane: what depthwise convolution and pooling share. Sixteen neighbouring outputs are kept in
// registers while all taps are taken in, in the order of the kernel. For use inside with_widest_vectors().
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "calib/ops/window.h"
#include "formats/base/widest.h"

namespace qtool {

inline constexpr std::int64_t slide_lanes = 16;
/// Images of fewer elements are padded and taken as one line.
inline constexpr std::int64_t small_image = 2500;

template <class T>
struct LanesOf {
  typedef T type __attribute__((vector_size(slide_lanes * sizeof(T))));
};

/// How a tap is taken into what an output holds; V is T or sixteen of them.
struct AddProduct {
  template <class V, class T>
  QTOOL_INLINE static void take(V& sum, const V& value, T weight) {
    sum += value * weight;
  }
};
struct AddValue {
  template <class V, class T>
  QTOOL_INLINE static void take(V& sum, const V& value, T) {
    sum += value;
  }
};
struct TakeLarger {
  template <class V, class T>
  QTOOL_INLINE static void take(V& top, const V& value, T) {
    top = value > top ? value : top;
  }
};

template <class Combine, class T>
class Slide {
 public:
  /// `weights`: one per tap, or null where Combine takes none. Outputs begin as `start`.
  QTOOL_INLINE Slide(const Window& window, const T* plane, const T* weights, T start, T* out)
      : w_(window), plane_(plane), weights_(weights), start_(start), out_(out) {}

  /// `scratch` is reused from plane to plane.
  QTOOL_INLINE void run(std::vector<T>& scratch) {
    if (is_small()) {
      return flat(scratch);
    }
    // Outputs [first, end) of a row see every column of the kernel inside the image.
    std::int64_t first = 0, end = w_.output[2];
    for (std::int64_t kw = 0; kw < w_.kernel[2]; ++kw) {
      std::int64_t from = 0, to = 0;
      w_.valid(2, kw, from, to);
      first = std::max(first, from);
      end = std::min(end, to);
    }
    // With stride 2 sixteen outputs read one element more than they use: it must still lie inside the line.
    const std::int64_t reach = (w_.kernel[2] - 1) * w_.dilation[2] - w_.pad_begin[2];
    while (w_.stride[2] == 2 && end > first && (end - 1) * 2 + reach + 1 >= w_.input[2]) --end;
    for (z_ = 0; z_ < w_.output[0]; ++z_) {
      for (y_ = 0; y_ < w_.output[1]; ++y_) {
        row_ = out_ + (z_ * w_.output[1] + y_) * w_.output[2];
        if (w_.stride[2] == 1) {
          row<1>(first, end);
        } else if (w_.stride[2] == 2) {
          row<2>(first, end);
        } else {
          for (std::int64_t x = 0; x < w_.output[2]; ++x) one(x);
        }
      }
    }
  }

 private:
  using Lanes = typename LanesOf<T>::type;

  bool is_small() const {
    for (const std::size_t axis : {std::size_t{1}, std::size_t{2}}) {
      if (w_.stride[axis] != 1 || (w_.kernel[axis] - 1) * w_.dilation[axis] >= 64) return false;
    }
    return w_.kernel[0] == 1 && w_.input[0] == 1 && w_.output[0] == 1 && w_.input_size() < small_image &&
           w_.output_size() < 2 * small_image;
  }

  /// Calls tap(weight, pointer to the input under output 0) for the taps whose line lies inside the image; of those
  /// lines, with `x` >= 0, the columns that output x sees inside.
  template <class F>
  QTOOL_INLINE void for_taps(std::int64_t x, F&& tap) const {
    for (std::int64_t kd = 0; kd < w_.kernel[0]; ++kd) {
      const std::int64_t iz = z_ * w_.stride[0] + kd * w_.dilation[0] - w_.pad_begin[0];
      if (iz < 0 || iz >= w_.input[0]) continue;
      for (std::int64_t kh = 0; kh < w_.kernel[1]; ++kh) {
        const std::int64_t iy = y_ * w_.stride[1] + kh * w_.dilation[1] - w_.pad_begin[1];
        if (iy < 0 || iy >= w_.input[1]) continue;
        const T* line = plane_ + (iz * w_.input[1] + iy) * w_.input[2];
        const std::int64_t first_tap = (kd * w_.kernel[1] + kh) * w_.kernel[2];
        for (std::int64_t kw = 0; kw < w_.kernel[2]; ++kw) {
          const std::int64_t shift = kw * w_.dilation[2] - w_.pad_begin[2];
          if (x >= 0 && (x * w_.stride[2] + shift < 0 || x * w_.stride[2] + shift >= w_.input[2])) continue;
          tap(weights_ == nullptr ? T(1) : weights_[first_tap + kw], line + shift);
        }
      }
    }
  }

  QTOOL_INLINE void one(std::int64_t x) const {
    T held = start_;
    for_taps(x, [&](T weight, const T* from) QTOOL_INLINE { Combine::take(held, from[x * w_.stride[2]], weight); });
    row_[x] = held;
  }

  template <int stride>
  QTOOL_INLINE void sixteen(std::int64_t x) const {
    Lanes held = Lanes{} + start_;
    for_taps(-1, [&](T weight, const T* from) QTOOL_INLINE {
      Lanes values;
      std::memcpy(&values, from + x * stride, sizeof values);
      if constexpr (stride == 2) {
        Lanes more;
        std::memcpy(&more, from + x * stride + slide_lanes, sizeof more);
        values = __builtin_shufflevector(values, more, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      }
      Combine::take(held, values, weight);
    });
    std::memcpy(row_ + x, &held, sizeof held);
  }

  /// Small images: with the padding written out, neighbouring outputs see neighbouring inputs across the ends of lines
  /// too, so the whole image is one long line (with some outputs between the lines that nobody wants).
  QTOOL_INLINE void flat(std::vector<T>& scratch) const {
    const std::int64_t width = w_.output[2] + (w_.kernel[2] - 1) * w_.dilation[2];
    const std::int64_t height = w_.output[1] + (w_.kernel[1] - 1) * w_.dilation[1];
    const std::int64_t size = width * height, all = w_.output[1] * width;
    const std::int64_t outputs = size + (w_.kernel[2] - 1) * w_.dilation[2] + slide_lanes;  // where they begin
    const T outside = std::is_same_v<Combine, TakeLarger> ? start_ : T(0);
    scratch.assign(static_cast<std::size_t>(outputs + all + slide_lanes), outside);
    const std::int64_t columns = std::min(w_.input[2], width - w_.pad_begin[2]);
    for (std::int64_t y = 0; y < std::min(w_.input[1], height - w_.pad_begin[1]); ++y) {
      T* line = scratch.data() + (y + w_.pad_begin[1]) * width + w_.pad_begin[2];
      for (std::int64_t x = 0; x < columns; ++x) line[x] = plane_[y * w_.input[2] + x];
    }
    T* results = scratch.data() + outputs;
    for (std::int64_t p = 0; p < all; p += slide_lanes) {
      Lanes held = Lanes{} + start_;
      for (std::int64_t kh = 0; kh < w_.kernel[1]; ++kh) {
        const T* line = scratch.data() + p + kh * w_.dilation[1] * width;
        for (std::int64_t kw = 0; kw < w_.kernel[2]; ++kw) {
          Lanes values;
          std::memcpy(&values, line + kw * w_.dilation[2], sizeof values);
          Combine::take(held, values, weights_ == nullptr ? T(1) : weights_[kh * w_.kernel[2] + kw]);
        }
      }
      std::memcpy(results + p, &held, sizeof held);
    }
    for (std::int64_t y = 0; y < w_.output[1]; ++y) {
      for (std::int64_t x = 0; x < w_.output[2]; ++x) out_[y * w_.output[2] + x] = results[y * width + x];
    }
  }

  template <int stride>
  QTOOL_INLINE void row(std::int64_t first, std::int64_t end) const {
    std::int64_t x = 0;
    for (; x < std::min(first, w_.output[2]); ++x) one(x);
    for (; x + slide_lanes <= end; x += slide_lanes) sixteen<stride>(x);
    if (x < end && end - first >= slide_lanes) {  // the last sixteen once more, where the row does not divide
      sixteen<stride>(end - slide_lanes);
      x = end;
    }
    for (; x < w_.output[2]; ++x) one(x);
  }

  const Window& w_;
  const T *plane_, *weights_;
  T start_;
  T *out_, *row_ = nullptr;
  std::int64_t z_ = 0, y_ = 0;
};

}  // namespace qtool

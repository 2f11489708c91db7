// SPDX-License-Identifier: Apache-2.0
// Parts: a constant looked at some ten thousand elements at a time, so that neither its elements nor its codes need to
// be in memory whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/ir/quant.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// Consecutive elements, and the consecutive scales that are theirs.
struct Part {
  Shape shape;  // that of the whole but for its first extent
  std::size_t begin = 0, count = 0;
  std::size_t scale = 0, scales = 0;
};

/// A tensor of shape `x` cut along its first axis so that no group of `grain` lies in two parts.
class Parts {
 public:
  Parts(const Grain&, const Shape& x);
  /// Elements from multiples of this on can be looked at by themselves.
  std::size_t unit() const { return unit_ * inner_; }
  /// The elements [begin, begin + count): begin a multiple of unit(), and the end too, or it is the end of all.
  Part at(std::size_t begin, std::size_t count) const;
  /// f(part), in order, for parts of the elements [begin, begin + count), bounded likewise.
  template <class F>
  void for_each(std::size_t begin, std::size_t count, F f) const {
    const std::size_t step = (most + unit() - 1) / unit() * unit(), end = begin + count;
    for (; begin < end; begin += step) f(at(begin, std::min(step, end - begin)));
  }
  template <class F>
  void for_each(F f) const {
    for_each(0, count_, f);
  }

 private:
  static constexpr std::size_t most = std::size_t{1} << 16;  // elements, where a unit has no more
  Shape shape_;
  bool sliced_ = false;                           // the scales are cut with the elements
  std::size_t unit_ = 1, inner_ = 1, count_ = 0;  // rows of a unit, elements of a row, of all
  std::size_t scales_ = 1, scales_of_unit_ = 0;   // all; those of one unit, where they are cut
};

/// The elements of a constant as float32, part by part.
class FloatParts {
 public:
  /// Any numeric type (Error(Code::input) as to_f32() for others).
  explicit FloatParts(const Tensor& x);
  /// Elements [begin, begin + count); good until the next call.
  std::span<const float> at(std::size_t begin, std::size_t count);

 private:
  Tensor x_;  // aligned in memory where it is not read into own_
  bool there_ = false;
  std::vector<float> own_;
};

}  // namespace qtool

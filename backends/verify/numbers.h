// SPDX-License-Identifier: Apache-2.0
// Constants of the float model as numbers: as they are stored, or computed from others by the few operators that
// exporters put between a weight and the product that reads it.
#pragma once

#include <memory>
#include <optional>

#include "backends/verify/scene.h"

namespace qtool::verify {

class Numbers {
 public:
  Numbers() = default;
  /// Mapped: the view must outlive it.
  explicit Numbers(const TensorView& view) : dims(view.dims), type(view.type), view_(&view) {}
  Numbers(std::vector<std::int64_t> shape, std::int32_t element, std::vector<float> values)
      : dims(std::move(shape)), type(element), own_(std::make_shared<const std::vector<float>>(std::move(values))) {}

  std::vector<std::int64_t> dims;
  std::int32_t type = f32;
  std::int64_t count() const;
  /// `out.size()` elements from `first` on.
  void read(std::int64_t first, std::span<float> out) const;
  std::vector<float> all() const;
  /// The elements where they lie in memory as float32 (of any alignment), else null.
  const std::byte* floats() const;

 private:
  const TensorView* view_ = nullptr;
  std::shared_ptr<const std::vector<float>> own_;
};

/// To nearest, ties to even, in float32, float16 or bfloat16 (other types: float32).
float rounded(double x, std::int32_t type);
/// Distance of neighbouring numbers of a type, relative: 2^-23 for float32.
double relative_step(std::int32_t type);

/// The float constant behind a value of the model; empty when it is none, or behind operators that are not known here.
std::optional<Numbers> constant_of(const Scene& model, std::string_view name, int depth = 0);

}  // namespace qtool::verify

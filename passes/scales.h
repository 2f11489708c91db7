// SPDX-License-Identifier: Apache-2.0
// Scales as runtimes store them beside weights of another type than float32.
#pragma once

#include "formats/ir/quant.h"

namespace qtool {

/// While it lives, scales that are chosen for `spec` are rounded to float16, where the spec has but one level of them
/// and it is not more exotic than that. `half` false: does nothing.
class HalfScales {
 public:
  HalfScales(QuantSpec& spec, bool half);
  ~HalfScales();
  HalfScales(const HalfScales&) = delete;
  HalfScales& operator=(const HalfScales&) = delete;

 private:
  QuantSpec& spec_;
  const NumberFormat* scale_format_;
  Tensor second_;
  bool on_;
};

}  // namespace qtool

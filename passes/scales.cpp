// SPDX-License-Identifier: Apache-2.0
#include "passes/scales.h"

namespace qtool {

HalfScales::HalfScales(QuantSpec& spec, bool half)
    : spec_(spec),
      scale_format_(spec.scale_format),
      second_(spec.second_scale),
      on_(half && (spec.scale_format == nullptr || spec.scale_format == &number::f16)) {
  if (!on_) return;
  spec.scale_format = &number::f16;
  spec.second_scale = Tensor::scalar(1.0F);
}

HalfScales::~HalfScales() {
  if (!on_) return;
  spec_.scale_format = scale_format_;
  spec_.second_scale = second_;
}

}  // namespace qtool

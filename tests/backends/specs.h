// SPDX-License-Identifier: Apache-2.0
// Decisions that tests of backends write by hand.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "formats/ir/quant.h"

namespace qtool {

inline Quant shared(QuantSpec spec) { return std::make_shared<const QuantSpec>(std::move(spec)); }

inline Quant bias() {
  QuantSpec s;
  s.format = &number::int16;
  s.is_bias = true;
  return shared(s);
}

inline Quant groups(const NumberFormat& format, int axis, std::int64_t group, bool symmetric = true) {
  QuantSpec s;
  s.format = &format;
  s.symmetric = symmetric;
  s.grain = {Grain::Kind::groups, axis, group, 0};
  return shared(s);
}

}  // namespace qtool

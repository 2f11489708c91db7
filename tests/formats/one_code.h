// SPDX-License-Identifier: Apache-2.0
// Number formats code by code.
#pragma once

#include <cstdint>

#include "formats/number/number.h"

namespace qtool::test {

inline std::uint16_t encode(const NumberFormat& f, float x) {
  std::uint16_t code = 0;
  f.encode({&x, 1}, {&code, 1});
  return code;
}
inline float decode(const NumberFormat& f, std::uint16_t code) {
  float x = 0;
  f.decode({&code, 1}, {&x, 1});
  return x;
}

}  // namespace qtool::test

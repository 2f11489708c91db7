// SPDX-License-Identifier: Apache-2.0
// What minimal filtering works on: panels of sixteen channels, the innermost index of all that is transformed.
#pragma once

#include <cstdint>
#include <cstring>

#include "calib/ops/slide.h"
#include "calib/ops/winograd_transforms.h"

namespace qtool::winograd {

inline constexpr std::int64_t panel = slide_lanes, half = panel / 2;
inline constexpr std::int64_t plane = points * points;  // products of a tile

using Panel = LanesOf<float>::type;
typedef float Eight __attribute__((vector_size(half * sizeof(float))));

QTOOL_INLINE inline void load(Panel& v, const float* from) { std::memcpy(&v, from, sizeof v); }
QTOOL_INLINE inline void store(float* to, const Panel& v) { std::memcpy(to, &v, sizeof v); }

/// Eight rows of eight floats become columns, `to_row` apart.
QTOOL_INLINE inline void transpose(const float* const (&from)[half], float* to, std::int64_t to_row) {
  Eight r[half], s[half];
  for (std::int64_t i = 0; i < half; ++i) std::memcpy(&r[i], from[i], sizeof r[i]);
  for (std::int64_t i = 0; i < half; i += 2) {
    s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (std::int64_t i = 0; i < half; i += 4) {
    for (std::int64_t k = 0; k < 2; ++k) {
      r[i + 2 * k] = __builtin_shufflevector(s[i + k], s[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      r[i + 2 * k + 1] = __builtin_shufflevector(s[i + k], s[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (std::int64_t i = 0; i < half / 2; ++i) {
    s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (std::int64_t i = 0; i < half; ++i) std::memcpy(to + i * to_row, &s[i], sizeof s[i]);
}

}  // namespace qtool::winograd

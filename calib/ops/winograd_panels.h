// SPDX-License-Identifier: Apache-2.0
// What minimal filtering works on: panels of sixteen channels, the innermost index of all that is transformed.
#pragma once

#include <cstdint>

#include "calib/ops/slide.h"
#include "calib/ops/winograd_transforms.h"

namespace qtool::winograd {

inline constexpr std::int64_t panel = slide_lanes, half = panel / 2;
inline constexpr std::int64_t plane = points * points;  // products of a tile

/// A panel where vectors are that wide, and half of one.
using Panel = LanesOf<float>::type;
typedef float Eight __attribute__((vector_size(half * sizeof(float))));

template <class V>
inline constexpr std::int64_t lanes = sizeof(V) / sizeof(float);

// As they lie in memory. (A memcpy into a vector of eight goes by way of the stack in halves with g++ 12.)
typedef float PanelInMemory __attribute__((vector_size(panel * sizeof(float)), aligned(alignof(float)), may_alias));
typedef float EightInMemory __attribute__((vector_size(half * sizeof(float)), aligned(alignof(float)), may_alias));

QTOOL_INLINE inline void load(Panel& v, const float* from) { v = *reinterpret_cast<const PanelInMemory*>(from); }
QTOOL_INLINE inline void load(Eight& v, const float* from) { v = *reinterpret_cast<const EightInMemory*>(from); }
QTOOL_INLINE inline void store(float* to, const Panel& v) { *reinterpret_cast<PanelInMemory*>(to) = v; }
QTOOL_INLINE inline void store(float* to, const Eight& v) { *reinterpret_cast<EightInMemory*>(to) = v; }

/// Eight rows of eight floats become columns, `to_row` apart.
QTOOL_INLINE inline void transpose(const float* const (&from)[half], float* to, std::int64_t to_row) {
  Eight r[half], s[half];
  for (std::int64_t i = 0; i < half; ++i) load(r[i], from[i]);
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
  for (std::int64_t i = 0; i < half; ++i) store(to + i * to_row, s[i]);
}

}  // namespace qtool::winograd

// SPDX-License-Identifier: Apache-2.0
// Copies of a few bytes each.
#pragma once

#include <cstddef>
#include <cstring>

namespace qtool::op {

/// memcpy, without its call where there is little to copy.
inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t n) {
  constexpr std::size_t few = 64, chunk = 16, piece = 4;
  if (n > few) {
    std::memcpy(to, from, n);
    return;
  }
  std::size_t i = 0;
  for (; i + chunk <= n; i += chunk) std::memcpy(to + i, from + i, chunk);
  for (; i + piece <= n; i += piece) std::memcpy(to + i, from + i, piece);
  for (; i < n; ++i) to[i] = from[i];
}

}  // namespace qtool::op

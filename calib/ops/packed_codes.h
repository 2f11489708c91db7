// SPDX-License-Identifier: Apache-2.0
// Codes of 2, 4 or 8 bits packed into bytes, low bits first, as operators of com.microsoft store them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qtool {

/// The code at bit `position` of a packed sequence; bits divides 8.
inline std::uint32_t code_at(const std::byte* packed, std::int64_t position, std::int64_t bits) {
  return (static_cast<std::uint32_t>(packed[position / 8]) >> (position % 8)) & ((1U << bits) - 1U);
}

inline bool packs_into_bytes(std::int64_t bits) { return bits == 2 || bits == 4 || bits == 8; }

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Codes as a sequence of bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qtool {

/// The low `bits` (at most 8) of `count` codes, the first one lowest, into `out`, whose bytes are zero.
void pack_bits(const std::uint8_t* codes, std::int64_t count, int bits, std::byte* out);

}  // namespace qtool

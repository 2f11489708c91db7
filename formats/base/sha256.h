// SPDX-License-Identifier: Apache-2.0
// The block function of SHA-256 (FIPS 180-4, section 6.2.2), plain and with the processor's own instructions for it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace qtool::sha256 {

using State = std::array<std::uint32_t, 8>;

/// Takes `count` blocks of 64 bytes into the state, the fastest way that the processor has.
void blocks(State&, const std::uint8_t* data, std::size_t count);
/// The same as the standard writes it down.
void plain_blocks(State&, const std::uint8_t* data, std::size_t count);

}  // namespace qtool::sha256

// SPDX-License-Identifier: Apache-2.0
// AMX: eight tiles of 16 rows of 64 bytes, for kernels to load before they use them.
#pragma once

#include <cstdint>

namespace qtool {

/// Operand of ldtilecfg: Intel's manual, volume 1, "Intel AMX tile configuration".
struct TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// What the processor and the operating system offer, found once: the only place that asks.
#pragma once

namespace qtool {

struct Processor {
  bool avx = false;
  bool avx2 = false;         // with fused multiply-add
  bool avx512 = false;       // F, BW, DQ and VL, on top of avx2
  bool avx512_vnni = false;  // on top of avx512
  bool avx512_bf16 = false;  // products of pairs of bfloat16, on top of avx512
  bool amx_bf16 = false;     // such products of tiles
  bool amx_int8 = false;     // tiles, and the system lets this process use them
};

/// Thread-safe. The first call asks the system for the use of tiles where the processor has them.
const Processor& processor();

/// From now on floats are multiplied and summed as every 64-bit x86 processor can: the same bytes on all of them, at a
/// third of the speed. Requires: nothing was computed yet.
void use_portable_floats();
/// Who chose the kernels then.
inline constexpr const char* chosen_portable = "--portable";
bool portable_floats();

}  // namespace qtool

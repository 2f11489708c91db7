// SPDX-License-Identifier: Apache-2.0
#include "formats/base/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>

namespace qtool {
namespace {

std::atomic<bool> portable{false};

#if defined(__x86_64__)

/// Tiles: CPUID leaf 7, EDX bit 24, with bit 25 for 8-bit codes and bit 22 for bfloat16. Linux hands the large tile
/// registers out on request only (ARCH_REQ_XCOMP_PERM, feature 18), for the whole process; an older kernel or one
/// without AMX refuses.
bool may_use_tiles(unsigned for_what) {
  constexpr unsigned tile = 1U << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & tile) == 0 || (d & for_what) == 0) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

Processor examine() {
  __builtin_cpu_init();
  Processor p;
  p.avx = __builtin_cpu_supports("avx") != 0;
  p.avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  p.avx512 = p.avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
             __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  p.avx512_vnni = p.avx512 && __builtin_cpu_supports("avx512vnni") != 0;
  p.avx512_bf16 = p.avx512 && __builtin_cpu_supports("avx512bf16") != 0;
  p.amx_int8 = p.avx512_vnni && may_use_tiles(1U << 25);
  p.amx_bf16 = p.avx512_bf16 && may_use_tiles(1U << 22);
  return p;
}

#else

Processor examine() { return {}; }

#endif

}  // namespace

const Processor& processor() {
  static const Processor found = examine();
  return found;
}

void use_portable_floats() { portable = true; }
bool portable_floats() { return portable; }

}  // namespace qtool

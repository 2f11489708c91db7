// SPDX-License-Identifier: Apache-2.0
// Loops compiled for the widest vectors of the processor at hand, chosen when they run. Only the width changes: without
// contraction of a*b+c (-ffp-contract=off) and without reordered sums, every width gives the same bits.
//
// Use: with_widest_vectors([&]() QTOOL_INLINE { for (...) y[i] = f(x[i]); });  where f is inlined too.
#pragma once

#include <cstdint>

#include "formats/base/processor.h"

#define QTOOL_INLINE __attribute__((always_inline))

// Before a loop whose rounds touch nothing that other rounds write: compilers need not look whether operands overlap,
// and an operand that is written over does not keep them from using vectors.
#if defined(__clang__)
#define QTOOL_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define QTOOL_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace qtool {

enum class Vectors : std::uint8_t { sse, avx2, avx512 };

/// What this processor and operating system offer, fused multiply-add included.
inline Vectors widest_available() {
  static const Vectors found = processor().avx512 ? Vectors::avx512 : processor().avx2 ? Vectors::avx2 : Vectors::sse;
  return found;
}

/// For kernels whose sums depend on the width or that fuse multiply and add.
inline Vectors widest_floats() { return portable_floats() ? Vectors::sse : widest_available(); }

namespace detail {
#if defined(__x86_64__)
template <class F>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void call_avx512(F& f) {
  f();
}
template <class F>
__attribute__((target("avx2"))) void call_avx2(F& f) {
  f();
}
#endif
}  // namespace detail

/// Runs f, a lambda marked QTOOL_INLINE, compiled for `vectors`. Requires: vectors <= widest_available().
template <class F>
void with_vectors(Vectors vectors, F&& f) {
#if defined(__x86_64__)
  if (vectors == Vectors::avx512) return detail::call_avx512(f);
  if (vectors == Vectors::avx2) return detail::call_avx2(f);
#else
  static_cast<void>(vectors);
#endif
  f();
}

template <class F>
void with_widest_vectors(F&& f) {
  with_vectors(widest_available(), f);
}

}  // namespace qtool

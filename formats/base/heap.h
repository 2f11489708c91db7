// SPDX-License-Identifier: Apache-2.0
// How a program that runs models treats its heap.
#pragma once

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace qtool {

/// Keeps freed memory for the next allocation instead of handing it back to the system: the results of one operator
/// take the place of an earlier one's, and fetching fresh pages would cost as much as computing them. Blocks of 32 MiB
/// and more are the exception: with them holes in the heap would grow faster than what is in use. For programs to call
/// before anything else; a library leaves the process as it finds it.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // a block with a mapping of its own is fetched anew each time
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 1);  // what one thread freed serves the next one; heaps of threads go back once they are empty
#endif
}

}  // namespace qtool

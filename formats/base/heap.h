// SPDX-License-Identifier: Apache-2.0
// How a program that runs models treats its heap.
#pragma once

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <new>

namespace qtool {

/// Keeps freed memory for the next allocation instead of handing it back to the system: the results of one operator
/// take the place of an earlier one's, and fetching fresh pages would cost as much as computing them. For programs to
/// call before anything else; a library leaves the process as it finds it.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);  // a block with a mapping of its own would be fetched anew each time
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 1);  // what one thread freed serves the next one; heaps of threads go back once they are empty
#endif
}

/// Zeroed memory apart from the heap, for what stays while larger blocks come and go: in the midst of the heap it would
/// keep their places from growing together. std::bad_alloc when there is none.
inline std::shared_ptr<std::byte> own_pages(std::size_t size) {
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(p), [size](std::byte* q) { ::munmap(q, size); }};
}

}  // namespace qtool

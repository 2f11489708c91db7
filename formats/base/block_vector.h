// SPDX-License-Identifier: Apache-2.0
// BlockVector: a std::vector under the memory ceiling (formats/base/memory.h): many elements lie in a block, which is a
// mapped file where the heap has no room.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "formats/base/memory.h"

namespace qtool {

template <class T>
struct BlockAllocator {
  using value_type = T;
  BlockAllocator() = default;
  template <class U>
  explicit BlockAllocator(const BlockAllocator<U>&) {}

  T* allocate(std::size_t n) {
    if (n < least) return std::allocator<T>().allocate(n);
    if (n > static_cast<std::size_t>(-1) / 2 / sizeof(T)) throw std::bad_alloc();
    const Owner block = memory_block(front + n * sizeof(T), false);
    new (block.get()) Owner(block);  // the block holds itself until it is given back
    return reinterpret_cast<T*>(block.get() + front);
  }

  void deallocate(T* p, std::size_t n) {
    if (n < least) return std::allocator<T>().deallocate(p, n);
    auto* const own = std::launder(reinterpret_cast<Owner*>(reinterpret_cast<std::byte*>(p) - front));
    const Owner last = std::move(*own);
    own->~Owner();
  }

  template <class U>
  friend bool operator==(const BlockAllocator&, const BlockAllocator<U>&) {
    return true;
  }

 private:
  using Owner = std::shared_ptr<std::byte>;
  static constexpr std::size_t front = 64, least = (std::size_t{64} << 10) / sizeof(T);
  static_assert(sizeof(Owner) <= front && alignof(T) <= front);
};

template <class T>
using BlockVector = std::vector<T, BlockAllocator<T>>;

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Working memory of convolutions.
#pragma once

#include <cstdint>
#include <memory>

#include "formats/base/memory.h"

namespace qtool {

/// `count` of T as they were found, under the memory ceiling.
template <class T>
std::shared_ptr<T> scratch_of(std::int64_t count) {
  const std::shared_ptr<std::byte> block = memory_block(static_cast<std::size_t>(count) * sizeof(T), false);
  return {block, reinterpret_cast<T*>(block.get())};
}

/// Memory that grows and is not cleared.
class Scratch {
 public:
  float* get(std::int64_t count) {
    if (count > count_) {
      floats_ = scratch_of<float>(count);
      count_ = count;
    }
    return floats_.get();
  }

 private:
  std::shared_ptr<float> floats_;
  std::int64_t count_ = 0;
};

/// Pieces of at most `each` that make up n.
inline std::int64_t pieces(std::int64_t n, std::int64_t each) { return (n + each - 1) / each; }

}  // namespace qtool

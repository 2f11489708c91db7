// SPDX-License-Identifier: Apache-2.0
// Working memory of convolutions.
#pragma once

#include <cstdint>
#include <memory>

namespace qtool {

/// Memory that grows and is not cleared.
class Scratch {
 public:
  float* get(std::int64_t count) {
    if (count > count_) {
      floats_ = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(count));
      count_ = count;
    }
    return floats_.get();
  }

 private:
  std::unique_ptr<float[]> floats_;
  std::int64_t count_ = 0;
};

/// Pieces of at most `each` that make up n.
inline std::int64_t pieces(std::int64_t n, std::int64_t each) { return (n + each - 1) / each; }

}  // namespace qtool

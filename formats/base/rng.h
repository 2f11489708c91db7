// SPDX-License-Identifier: Apache-2.0
// Rng: random numbers by counter. The i-th number depends on the key and on i alone, so results do not
// depend on the order of calls, on other passes or on threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace qtool {

class Rng {
 public:
  /// `domain` and `name` separate streams: usually the pass and the tensor.
  explicit Rng(std::uint64_t seed, std::string_view domain = {}, std::string_view name = {})
      : key_(mix(mix(mix(seed) ^ fnv(domain)) ^ fnv(name))) {}

  Rng split(std::string_view domain, std::string_view name = {}) const { return Rng(key_, domain, name); }

  /// 64 uniform bits at `index`.
  std::uint64_t bits(std::uint64_t index) const { return mix(key_ + index * 0x9e3779b97f4a7c15ULL); }
  /// Uniform in [0, 1).
  double uniform(std::uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }
  /// Standard normal (Box-Muller on numbers 2i and 2i+1).
  double normal(std::uint64_t index) const {
    const double u = uniform(2 * index) + 0x1p-54, v = uniform(2 * index + 1);
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  static constexpr std::uint64_t mix(std::uint64_t z) {  // SplitMix64's finalizer (Steele et al., 2014)
    z += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  static constexpr std::uint64_t fnv(std::string_view text) {  // FNV-1a, 64 bits
    std::uint64_t h = 0xcbf29ce484222325ULL;
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    return h;
  }
  std::uint64_t key_;
};

}  // namespace qtool

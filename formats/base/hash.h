// SPDX-License-Identifier: Apache-2.0
// Digest: SHA-256 (FIPS 180-4), for keys, manifests and fingerprints.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace qtool {

using Digest = std::array<std::uint8_t, 32>;

/// 64 lower-case hexadecimal digits.
std::string hex(const Digest&);

class Hasher {
 public:
  Hasher();
  Hasher& bytes(std::span<const std::byte>);
  /// Length first, so that ("ab","c") and ("a","bc") differ.
  Hasher& text(std::string_view);
  template <class T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T> Hasher& number(T value) {
    return bytes(std::as_bytes(std::span(&value, 1)));
  }
  Hasher& digest(const Digest& d) { return bytes(std::as_bytes(std::span(d))); }
  /// Ends the message; the hasher must not be used afterwards.
  Digest finish();

 private:
  std::array<std::uint32_t, 8> state_;
  std::array<std::uint8_t, 64> buffer_{};
  std::size_t fill_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace qtool

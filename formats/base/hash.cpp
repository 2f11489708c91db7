// SPDX-License-Identifier: Apache-2.0
#include "formats/base/hash.h"

#include <algorithm>
#include <cstring>

#include "formats/base/sha256.h"

namespace qtool {
std::string hex(const Digest& digest) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const std::uint8_t b : digest) {
    out += digits[b >> 4];
    out += digits[b & 15];
  }
  return out;
}

Hasher::Hasher()
    : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

Hasher& Hasher::bytes(std::span<const std::byte> data) {
  if (data.empty()) return *this;
  auto p = reinterpret_cast<const std::uint8_t*>(data.data());
  std::size_t n = data.size();
  total_ += n;
  if (fill_ > 0) {
    const std::size_t take = std::min(n, buffer_.size() - fill_);
    std::memcpy(buffer_.data() + fill_, p, take);
    fill_ += take, p += take, n -= take;
    if (fill_ == buffer_.size()) {
      sha256::blocks(state_, buffer_.data(), 1);
      fill_ = 0;
    }
  }
  sha256::blocks(state_, p, n / 64);
  p += n / 64 * 64, n %= 64;
  if (n > 0) {
    std::memcpy(buffer_.data() + fill_, p, n);
    fill_ += n;
  }
  return *this;
}

Hasher& Hasher::text(std::string_view s) {
  number(static_cast<std::uint64_t>(s.size()));
  return bytes(std::as_bytes(std::span(s.data(), s.size())));
}

Digest Hasher::finish() {
  const std::uint64_t bit_count = total_ * 8;
  const std::byte one{0x80}, zero{0};
  bytes(std::span(&one, 1));
  while (fill_ != 56) bytes(std::span(&zero, 1));
  std::array<std::byte, 8> length;
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(bit_count >> (56 - 8 * i));
  bytes(length);
  Digest out;
  for (std::size_t i = 0; i < 32; ++i) out[i] = static_cast<std::uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  return out;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Values as bytes and back, for entries of a store (formats/base/store.h): little-endian, nothing but what was put in.
// Whoever reads must ask in the order of the writer. Bytes may come from anybody: every length is checked against what
// is left before anything is allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "formats/base/hash.h"

namespace qtool {

class ByteWriter {
 public:
  template <class T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T> ByteWriter& number(T value) {
    return bytes(std::as_bytes(std::span(&value, 1)));
  }
  ByteWriter& bytes(std::span<const std::byte> raw) {
    out_.insert(out_.end(), raw.begin(), raw.end());
    return *this;
  }
  /// Length first.
  ByteWriter& text(std::string_view s) { return number(std::uint64_t{s.size()}).bytes(std::as_bytes(std::span(s))); }
  /// Small ones in few bytes, seven bits each. Not negative.
  ByteWriter& count(std::int64_t value);
  ByteWriter& digest(const Digest& d) { return bytes(std::as_bytes(std::span(d))); }
  /// Length first.
  template <class T>
  ByteWriter& numbers(std::span<const T> list) {
    return number(std::uint64_t{list.size()}).bytes(std::as_bytes(list));
  }
  std::span<const std::byte> written() const { return out_; }

 private:
  std::vector<std::byte> out_;
};

/// Every member throws Error(Code::input) when the bytes end early or hold what cannot be.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> in) : in_(in) {}
  template <class T>
  requires std::is_arithmetic_v<T> T number() {
    T value;
    std::memcpy(&value, bytes(sizeof value).data(), sizeof value);
    return value;
  }
  bool flag() { return number<std::uint8_t>() != 0; }
  /// An enumerator from 0 to `last`.
  template <class E>
  requires std::is_enum_v<E> E choice(E last) {
    const auto value = number<std::underlying_type_t<E>>();
    if (value > static_cast<std::underlying_type_t<E>>(last)) fail();
    return static_cast<E>(value);
  }
  std::span<const std::byte> bytes(std::uint64_t size);
  std::int64_t count();
  std::string text();
  Digest digest();
  template <class T>
  std::vector<T> numbers() {
    const auto raw = bytes(size(sizeof(T)) * sizeof(T));
    std::vector<T> list(raw.size() / sizeof(T));
    if (!raw.empty()) std::memcpy(list.data(), raw.data(), raw.size());
    return list;
  }
  /// A count of things that take at least `least` bytes each.
  std::uint64_t size(std::uint64_t least = 1);
  std::size_t left() const { return in_.size(); }
  /// To be called last.
  void end() const {
    if (!in_.empty()) fail();
  }
  [[noreturn]] static void fail();

 private:
  std::span<const std::byte> in_;
};

}  // namespace qtool

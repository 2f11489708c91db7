// SPDX-License-Identifier: Apache-2.0
#include "formats/base/bytes.h"

#include <algorithm>

#include "formats/base/error.h"

namespace qtool {

ByteWriter& ByteWriter::count(std::int64_t value) {
  auto left = static_cast<std::uint64_t>(value);
  for (; left >= 128; left >>= 7) number(static_cast<std::uint8_t>(left | 128));
  return number(static_cast<std::uint8_t>(left));
}

void ByteReader::fail() { throw Error(Code::input, "a stored entry is not what it says it is"); }

std::span<const std::byte> ByteReader::bytes(std::uint64_t size) {
  if (size > in_.size()) fail();
  const auto out = in_.first(static_cast<std::size_t>(size));
  in_ = in_.subspan(out.size());
  return out;
}

std::uint64_t ByteReader::size(std::uint64_t least) {
  const auto n = number<std::uint64_t>();
  if (n > in_.size() / least) fail();
  return n;
}

std::int64_t ByteReader::count() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 63; shift += 7) {
    const auto part = number<std::uint8_t>();
    value |= std::uint64_t{part & 127U} << shift;
    if (part < 128) return static_cast<std::int64_t>(value);
  }
  fail();
}

std::string ByteReader::text() {
  const auto raw = bytes(size());
  return {reinterpret_cast<const char*>(raw.data()), raw.size()};
}

Digest ByteReader::digest() {
  Digest d;
  const auto raw = bytes(d.size());
  std::memcpy(d.data(), raw.data(), d.size());
  return d;
}

}  // namespace qtool

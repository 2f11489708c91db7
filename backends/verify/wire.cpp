// SPDX-License-Identifier: Apache-2.0
// Protobuf's wire format and the elements of tensors.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/verify/onnx_file.h"
#include "formats/base/error.h"

namespace qtool::verify {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw Error(Code::verification, "the written file is broken: " + what);
}

template <class T>
T load(Bytes bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at * sizeof(T), sizeof(T));
  return value;
}

double half_value(std::uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double sign = (h & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(mantissa + 1024, exponent - 25);
}

}  // namespace

std::uint64_t Wire::varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) broken("it ends inside a number");
    const auto byte = static_cast<std::uint64_t>(rest_[0]);
    rest_ = rest_.subspan(1);
    value |= (byte & 127) << shift;
    if ((byte & 128) == 0) return value;
  }
  broken("a number has more than 64 bits");
}

std::optional<Field> Wire::next() {
  if (rest_.empty()) return std::nullopt;
  const std::uint64_t key = varint();
  Field field;
  field.number = static_cast<std::uint32_t>(key >> 3);
  field.wire = static_cast<std::uint32_t>(key & 7);
  const auto take = [&](std::uint64_t n) {
    if (n > rest_.size()) broken("it ends inside a field");
    const Bytes bytes = rest_.first(n);
    rest_ = rest_.subspan(n);
    return bytes;
  };
  switch (field.wire) {
    case 0: field.value = varint(); break;
    case 1: field.value = load<std::uint64_t>(take(8), 0); break;
    case 2: field.bytes = take(varint()); break;
    case 5: field.value = load<std::uint32_t>(take(4), 0); break;
    default: broken("it has a field of unknown form");
  }
  return field;
}

int bits_of(std::int32_t type) {
  // onnx.proto, TensorProto.DataType 0 ... 28.
  constexpr int bits[] = {0, 32, 8, 8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2};
  return type >= 0 && type < static_cast<std::int32_t>(std::size(bits)) ? bits[type] : 0;
}

std::int64_t TensorView::count() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) {
    if (d < 0 || (d > 0 && n > (std::int64_t{1} << 48) / d)) {
      broken("tensor \"" + std::string(name) + "\" has an impossible shape");
    }
    n *= d;
  }
  return n;
}

double TensorView::at(std::int64_t i) const {
  const auto k = static_cast<std::size_t>(i);
  if (i < 0 || i >= count()) broken("tensor \"" + std::string(name) + "\" is read beyond its end");
  if (!raw) {
    const double n = k < numbers.size() ? numbers[k] : 0;
    return type == f16 ? half_value(static_cast<std::uint16_t>(n)) : n;
  }
  switch (type) {
    case f32: return static_cast<double>(load<float>(bytes, k));
    case u8: return load<std::uint8_t>(bytes, k);
    case i8: return load<std::int8_t>(bytes, k);
    case u16: return load<std::uint16_t>(bytes, k);
    case i16: return load<std::int16_t>(bytes, k);
    case i32: return load<std::int32_t>(bytes, k);
    case i64: return static_cast<double>(load<std::int64_t>(bytes, k));
    case f16: return half_value(load<std::uint16_t>(bytes, k));
    case bf16: {
      const auto wide = static_cast<std::uint32_t>(load<std::uint16_t>(bytes, k)) << 16;
      return static_cast<double>(std::bit_cast<float>(wide));
    }
    default: broken("tensor \"" + std::string(name) + "\" is of a type that scales and zero points never have");
  }
}

std::string NodeView::label() const {
  return "node \"" + std::string(!name.empty() || outputs.empty() ? name : outputs[0]) + "\" (" + std::string(op) + ")";
}

}  // namespace qtool::verify

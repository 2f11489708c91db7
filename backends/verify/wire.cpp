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

double brain_value(std::uint16_t h) {
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16));
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
  constexpr std::int64_t most = std::int64_t{1} << 48;
  std::int64_t n = 1;
  for (const std::int64_t d : dims) {
    if (d < 0 || __builtin_mul_overflow(n, d, &n) || n > most) {
      broken("tensor \"" + std::string(name) + "\" has an impossible shape");
    }
  }
  return n;
}

double TensorView::at(std::int64_t i) const {
  const auto k = static_cast<std::size_t>(i);
  if (i < 0 || i >= count()) broken("tensor \"" + std::string(name) + "\" is read beyond its end");
  if (type == f32 || type == f16 || type == bf16 || type == f64) {
    if (!raw)
      return k >= numbers.size() ? 0
             : type == f16       ? half_value(static_cast<std::uint16_t>(numbers[k]))
             : type == bf16      ? brain_value(static_cast<std::uint16_t>(numbers[k]))
                                 : numbers[k];
    switch (type) {
      case f32: return static_cast<double>(load<float>(bytes, k));
      case f16: return half_value(load<std::uint16_t>(bytes, k));
      case bf16: return brain_value(load<std::uint16_t>(bytes, k));
      default: return load<double>(bytes, k);
    }
  }
  if (type == i64) return raw ? static_cast<double>(load<std::int64_t>(bytes, k)) : k < numbers.size() ? numbers[k] : 0;
  std::int32_t value = 0;
  read(i, std::span(&value, 1));
  return value;
}

void TensorView::read(std::int64_t first, std::span<std::int32_t> out) const {
  const std::int64_t n = count(), size = static_cast<std::int64_t>(out.size());
  if (first < 0 || size > n - first) broken("tensor \"" + std::string(name) + "\" is read beyond its end");
  const auto from = static_cast<std::size_t>(first);
  const int bits = bits_of(type);
  if (bits == 0 || bits > 32 || is_real(type)) {
    broken("tensor \"" + std::string(name) + "\" is " + name_of(type) + ", which codes and zero points never are");
  }
  if (!raw && bits >= 8) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = from + i < numbers.size() ? static_cast<std::int32_t>(numbers[from + i]) : 0;
    }
    return;
  }
  const auto all = [&]<class T>(T) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int32_t>(load<T>(bytes, from + i));
  };
  switch (type) {
    case i8: return all(std::int8_t{});
    case u16: return all(std::uint16_t{});
    case i16: return all(std::int16_t{});
    case i32: return all(std::int32_t{});
    default: break;
  }
  if (bits == 8) return all(std::uint8_t{});
  if (bits != 2 && bits != 4) broken("tensor \"" + std::string(name) + "\" is of a type that holds no codes");
  const std::size_t each = 8 / static_cast<std::size_t>(bits);
  const bool is_signed = type == i4 || type == i2;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t k = from + i;
    const unsigned byte = raw                         ? std::to_integer<unsigned>(bytes[k / each])
                          : k / each < numbers.size() ? static_cast<unsigned>(numbers[k / each])
                                                      : 0;
    const unsigned code = byte >> (k % each * static_cast<std::size_t>(bits)) & ((1U << bits) - 1U);
    const bool negative = is_signed && (code >> (bits - 1)) != 0;
    out[i] = static_cast<std::int32_t>(code) - (negative ? 1 << bits : 0);
  }
}

void TensorView::read(std::int64_t first, std::span<float> out) const {
  if (first < 0 || static_cast<std::int64_t>(out.size()) > count() - first) {
    broken("tensor \"" + std::string(name) + "\" is read beyond its end");
  }
  if (type == f32 && raw) {
    std::memcpy(out.data(), bytes.data() + static_cast<std::size_t>(first) * 4, out.size() * 4);
    return;
  }
  if (!is_real(type)) broken("tensor \"" + std::string(name) + "\" is " + name_of(type) + ", not float");
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(at(first + static_cast<std::int64_t>(i)));
}

bool is_real(std::int32_t type) { return type == f32 || type == f16 || type == bf16 || type == f64; }

bool is_code(std::int32_t type) {
  return type == u8 || type == i8 || type == u16 || type == i16 || type == u4 || type == i4 || type == u2 || type == i2;
}

std::pair<int, int> range_of(std::int32_t type) {
  const int bits = bits_of(type);
  const bool is_signed = type == i8 || type == i16 || type == i4 || type == i2;
  return is_signed ? std::pair(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) : std::pair(0, (1 << bits) - 1);
}

std::string name_of(std::int32_t type) {
  switch (type) {
    case f32: return "float32";
    case u8: return "uint8";
    case i8: return "int8";
    case u16: return "uint16";
    case i16: return "int16";
    case i32: return "int32";
    case i64: return "int64";
    case f16: return "float16";
    case f64: return "float64";
    case bf16: return "bfloat16";
    case u4: return "uint4";
    case i4: return "int4";
    case f4: return "float4e2m1";
    case e8m0: return "float8e8m0";
    case u2: return "uint2";
    case i2: return "int2";
    default: return type >= f8_first && type <= f8_last ? "float8" : "of type " + std::to_string(type);
  }
}

std::int64_t NodeView::integer(std::string_view attribute, std::int64_t otherwise) const {
  const auto found = ints.find(attribute);
  return found == ints.end() ? otherwise : found->second;
}

float NodeView::number(std::string_view attribute, float otherwise) const {
  const auto found = floats.find(attribute);
  return found == floats.end() ? otherwise : found->second;
}

std::string NodeView::label() const { return "node \"" + std::string(who()) + "\" (" + std::string(op) + ")"; }

}  // namespace qtool::verify

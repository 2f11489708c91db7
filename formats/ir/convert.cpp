// SPDX-License-Identifier: Apache-2.0
// Tensors of every numeric type to and from float32, and integers to int64.
#include <cmath>
#include <limits>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/tensor.h"
#include "formats/number/e8m0.h"
#include "formats/number/half.h"
#include "formats/number/minifloat.h"

namespace qtool {
namespace {

using number::Minifloat;
using number::Top;

[[noreturn]] void refuse(DType t, const char* wanted) {
  throw Error(Code::input, "a tensor of type " + std::string(name_of(t)) + " has no " + wanted + " values");
}

/// Code i of a flat sequence of `bits`-bit codes, first element in the low bits.
std::uint32_t packed_code(std::span<const std::byte> bytes, std::size_t i, int bits) {
  const std::size_t bit = i * static_cast<std::size_t>(bits), at = bit / 8;
  std::uint32_t word = static_cast<std::uint32_t>(bytes[at]);
  if (at + 1 < bytes.size()) word |= static_cast<std::uint32_t>(bytes[at + 1]) << 8;
  return (word >> (bit % 8)) & ((1u << bits) - 1u);
}

void put_code(std::span<std::byte> bytes, std::size_t i, int bits, std::uint32_t code) {
  const std::size_t bit = i * static_cast<std::size_t>(bits), at = bit / 8;
  const std::uint32_t word = (code & ((1u << bits) - 1u)) << (bit % 8);
  bytes[at] |= static_cast<std::byte>(word & 0xffu);
  if (word > 0xffu) bytes[at + 1] |= static_cast<std::byte>(word >> 8);
}

std::int32_t sign_extend(std::uint32_t code, int bits) {
  const int shift = 32 - bits;
  return static_cast<std::int32_t>(code << shift) >> shift;
}

template <class T, class F>
void each(const Tensor& t, std::span<float> out, F f) {
  const auto in = t.read<T>();
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = f(in[i]);
}

template <class F>
void each_code(const Tensor& t, std::span<float> out, F f) {
  const int bits = bit_width(t.dtype());
  const auto bytes = t.bytes();
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = f(packed_code(bytes, i, bits));
}

template <class T>
void widen(const Tensor& t, std::span<float> out) {
  each<T>(t, out, [](T v) { return static_cast<float>(v); });
}

template <class X>
void decode(const Tensor& t, std::span<float> out) {
  each_code(t, out, [](std::uint32_t c) { return X::decode(static_cast<std::uint16_t>(c)); });
}

template <class T>
void round_to(std::span<const float> in, Tensor& t) {
  const auto out = t.write<T>();
  // The largest float below the limit where the type has more digits than a float; else the limit itself.
  constexpr auto low = static_cast<float>(std::numeric_limits<T>::min());
  constexpr auto high = static_cast<float>(std::numeric_limits<T>::max());
  for (std::size_t i = 0; i < in.size(); ++i) {
    const float r = std::nearbyint(in[i]);
    out[i] = r != r      ? T{0}
             : r >= high ? std::numeric_limits<T>::max()
             : r <= low  ? std::numeric_limits<T>::min()
                         : static_cast<T>(r);
  }
}

template <class F>
void encode(std::span<const float> in, Tensor& t, F f) {
  const int bits = bit_width(t.dtype());
  const auto out = t.write_bytes();
  for (std::size_t i = 0; i < in.size(); ++i) put_code(out, i, bits, static_cast<std::uint32_t>(f(in[i])));
}

/// A signed or unsigned integer of fewer than 8 bits.
template <int Bits, bool Signed>
std::int32_t small_integer(float x) {
  constexpr float low = Signed ? -static_cast<float>(1 << (Bits - 1)) : 0.0f;
  constexpr float high = low + static_cast<float>((1 << Bits) - 1);
  const float r = std::nearbyint(x);
  return r != r ? 0 : static_cast<std::int32_t>(r < low ? low : r > high ? high : r);
}

}  // namespace

Tensor to_f32(const Tensor& given) {
  if (given.empty() || is_absent(given)) return given.empty() ? given : absent(DType::f32, given.shape());
  Tensor t = given;
  t.align();
  if (t.dtype() == DType::f32) return t;
  Tensor result = Tensor::unset(DType::f32, t.shape());
  const auto out = result.write<float>();
  switch (t.dtype()) {
    case DType::f16: each<std::uint16_t>(t, out, f16_to_float); break;
    case DType::bf16: each<std::uint16_t>(t, out, bf16_to_float); break;
    case DType::f64: widen<double>(t, out); break;
    case DType::i8: widen<std::int8_t>(t, out); break;
    case DType::u8: widen<std::uint8_t>(t, out); break;
    case DType::i16: widen<std::int16_t>(t, out); break;
    case DType::u16: widen<std::uint16_t>(t, out); break;
    case DType::i32: widen<std::int32_t>(t, out); break;
    case DType::u32: widen<std::uint32_t>(t, out); break;
    case DType::i64: widen<std::int64_t>(t, out); break;
    case DType::u64: widen<std::uint64_t>(t, out); break;
    case DType::boolean: each<std::uint8_t>(t, out, [](std::uint8_t v) { return v != 0 ? 1.0f : 0.0f; }); break;
    case DType::i4: each_code(t, out, [](std::uint32_t c) { return static_cast<float>(sign_extend(c, 4)); }); break;
    case DType::i2: each_code(t, out, [](std::uint32_t c) { return static_cast<float>(sign_extend(c, 2)); }); break;
    case DType::u4:
    case DType::u2: each_code(t, out, [](std::uint32_t c) { return static_cast<float>(c); }); break;
    case DType::f8e4m3fn: decode<Minifloat<4, 3, Top::fn>>(t, out); break;
    case DType::f8e4m3fnuz: decode<Minifloat<4, 3, Top::fnuz>>(t, out); break;
    case DType::f8e5m2: decode<Minifloat<5, 2, Top::ieee>>(t, out); break;
    case DType::f8e5m2fnuz: decode<Minifloat<5, 2, Top::fnuz>>(t, out); break;
    case DType::f8e8m0:
      each_code(t, out, [](std::uint32_t c) { return e8m0_value(static_cast<std::uint8_t>(c)); });
      break;
    case DType::f6e2m3: decode<Minifloat<2, 3, Top::finite>>(t, out); break;
    case DType::f6e3m2: decode<Minifloat<3, 2, Top::finite>>(t, out); break;
    case DType::f4e2m1: decode<Minifloat<2, 1, Top::finite>>(t, out); break;
    case DType::f32:
    case DType::string:
    case DType::c64:
    case DType::c128: refuse(t.dtype(), "real");
  }
  return result;
}

Tensor from_f32(const Tensor& t, DType dtype) {
  if (t.empty() || dtype == DType::f32) return t;
  QTOOL_ENSURE(t.dtype() == DType::f32, "from_f32 is given float32");
  if (dtype == DType::string || dtype == DType::c64 || dtype == DType::c128) refuse(dtype, "real");
  if (is_absent(t)) return absent(dtype, t.shape());
  Tensor result(dtype, t.shape());
  const auto in = t.read<float>();
  switch (dtype) {
    case DType::f16: {
      const auto out = result.write<std::uint16_t>();
      for (std::size_t i = 0; i < in.size(); ++i) out[i] = float_to_f16(in[i]);
      break;
    }
    case DType::bf16: {
      const auto out = result.write<std::uint16_t>();
      for (std::size_t i = 0; i < in.size(); ++i) out[i] = float_to_bf16(in[i]);
      break;
    }
    case DType::f64: {
      const auto out = result.write<double>();
      std::copy(in.begin(), in.end(), out.begin());
      break;
    }
    case DType::i8: round_to<std::int8_t>(in, result); break;
    case DType::u8: round_to<std::uint8_t>(in, result); break;
    case DType::i16: round_to<std::int16_t>(in, result); break;
    case DType::u16: round_to<std::uint16_t>(in, result); break;
    case DType::i32: round_to<std::int32_t>(in, result); break;
    case DType::u32: round_to<std::uint32_t>(in, result); break;
    case DType::i64: round_to<std::int64_t>(in, result); break;
    case DType::u64: round_to<std::uint64_t>(in, result); break;
    case DType::boolean: encode(in, result, [](float x) { return x != 0 ? 1 : 0; }); break;
    case DType::i4: encode(in, result, small_integer<4, true>); break;
    case DType::u4: encode(in, result, small_integer<4, false>); break;
    case DType::i2: encode(in, result, small_integer<2, true>); break;
    case DType::u2: encode(in, result, small_integer<2, false>); break;
    case DType::f8e4m3fn: encode(in, result, Minifloat<4, 3, Top::fn>::encode); break;
    case DType::f8e4m3fnuz: encode(in, result, Minifloat<4, 3, Top::fnuz>::encode); break;
    case DType::f8e5m2: encode(in, result, Minifloat<5, 2, Top::ieee>::encode); break;
    case DType::f8e5m2fnuz: encode(in, result, Minifloat<5, 2, Top::fnuz>::encode); break;
    case DType::f8e8m0: encode(in, result, e8m0_nearest); break;
    case DType::f6e2m3: encode(in, result, Minifloat<2, 3, Top::finite>::encode); break;
    case DType::f6e3m2: encode(in, result, Minifloat<3, 2, Top::finite>::encode); break;
    case DType::f4e2m1: encode(in, result, Minifloat<2, 1, Top::finite>::encode); break;
    case DType::f32:
    case DType::string:
    case DType::c64:
    case DType::c128: break;
  }
  return result;
}

std::vector<std::int64_t> to_int64s(const Tensor& t) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(t.empty() ? 0 : t.count()));
  if (out.empty()) return out;
  const auto copy = [&](auto in) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int64_t>(in[i]);
  };
  switch (t.dtype()) {
    case DType::i8: copy(t.read<std::int8_t>()); break;
    case DType::u8: copy(t.read<std::uint8_t>()); break;
    case DType::i16: copy(t.read<std::int16_t>()); break;
    case DType::u16: copy(t.read<std::uint16_t>()); break;
    case DType::i32: copy(t.read<std::int32_t>()); break;
    case DType::u32: copy(t.read<std::uint32_t>()); break;
    case DType::i64: copy(t.read<std::int64_t>()); break;
    case DType::u64:
      copy(t.read<std::uint64_t>());
      for (const std::int64_t v : out) {
        if (v < 0) throw Error(Code::input, "an unsigned 64-bit integer is larger than 2^63 - 1");
      }
      break;
    case DType::boolean:
      copy(t.read<std::uint8_t>());
      for (std::int64_t& v : out) v = v != 0 ? 1 : 0;
      break;
    case DType::i4:
    case DType::u4:
    case DType::i2:
    case DType::u2: {
      const int bits = bit_width(t.dtype());
      const bool is_signed = t.dtype() == DType::i4 || t.dtype() == DType::i2;
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::uint32_t code = packed_code(t.bytes(), i, bits);
        out[i] = is_signed ? sign_extend(code, bits) : static_cast<std::int64_t>(code);
      }
      break;
    }
    default: refuse(t.dtype(), "integer");
  }
  return out;
}

}  // namespace qtool

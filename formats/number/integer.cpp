// SPDX-License-Identifier: Apache-2.0
// Integers of 2 to 16 bits, two's complement or unsigned.
#include <bit>

#include "formats/number/describe.h"

namespace qtool::number {
namespace {

constexpr std::optional<DType> stored_as(int bits, bool is_signed) {
  switch (bits) {
    case 2: return is_signed ? DType::i2 : DType::u2;
    case 4: return is_signed ? DType::i4 : DType::u4;
    case 8: return is_signed ? DType::i8 : DType::u8;
    case 16: return is_signed ? DType::i16 : DType::u16;
    default: return std::nullopt;
  }
}

template <int Bits, bool Signed>
struct Integer {
  static constexpr int bits = Bits;
  static constexpr float lowest = Signed ? -static_cast<float>(1 << (Bits - 1)) : 0.0f;
  static constexpr float highest = static_cast<float>((1 << (Signed ? Bits - 1 : Bits)) - 1);
  static constexpr bool is_integer = true;
  static constexpr std::optional<DType> onnx = stored_as(Bits, Signed);

  static std::uint16_t encode(float x) {
    // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits of the sum.
    constexpr float magic = 12582912.0f;
    x = x == x ? x : 0.0f;
    x = x < lowest ? lowest : x;
    x = x > highest ? highest : x;
    const std::uint32_t q = std::bit_cast<std::uint32_t>(x + magic) - std::bit_cast<std::uint32_t>(magic);
    return static_cast<std::uint16_t>(q & ((1u << Bits) - 1u));
  }
  static float decode(std::uint16_t code) {
    const int shift = 32 - Bits;
    const std::uint32_t top = static_cast<std::uint32_t>(code) << shift;
    return Signed ? static_cast<float>(static_cast<std::int32_t>(top) >> shift) : static_cast<float>(top >> shift);
  }
};

}  // namespace

constinit const NumberFormat int2 = describe<Integer<2, true>>("int2");
constinit const NumberFormat int3 = describe<Integer<3, true>>("int3");
constinit const NumberFormat int4 = describe<Integer<4, true>>("int4");
constinit const NumberFormat int5 = describe<Integer<5, true>>("int5");
constinit const NumberFormat int6 = describe<Integer<6, true>>("int6");
constinit const NumberFormat int7 = describe<Integer<7, true>>("int7");
constinit const NumberFormat int8 = describe<Integer<8, true>>("int8");
constinit const NumberFormat int16 = describe<Integer<16, true>>("int16");
constinit const NumberFormat uint2 = describe<Integer<2, false>>("uint2");
constinit const NumberFormat uint3 = describe<Integer<3, false>>("uint3");
constinit const NumberFormat uint4 = describe<Integer<4, false>>("uint4");
constinit const NumberFormat uint5 = describe<Integer<5, false>>("uint5");
constinit const NumberFormat uint6 = describe<Integer<6, false>>("uint6");
constinit const NumberFormat uint7 = describe<Integer<7, false>>("uint7");
constinit const NumberFormat uint8 = describe<Integer<8, false>>("uint8");
constinit const NumberFormat uint16 = describe<Integer<16, false>>("uint16");

}  // namespace qtool::number

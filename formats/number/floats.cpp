// SPDX-License-Identifier: Apache-2.0
// The floating-point formats: minifloats of 3 to 8 bits (arXiv 2311.12359; OCP FP4, FP6, FP8 among them), IEEE half,
// bfloat16, and for scales UE5M3 (arXiv 2509.17791) and E8M0.
#include "formats/number/describe.h"
#include "formats/number/e8m0.h"
#include "formats/number/half.h"
#include "formats/number/minifloat.h"

namespace qtool::number {
namespace {

template <int E, int M, Top T = Top::finite>
struct Small : Minifloat<E, M, T> {
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
};

template <int E, int M, Top T, DType Stored>
struct Standard : Minifloat<E, M, T> {
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = Stored;
};

/// Five exponent and three mantissa bits without a sign; 0xFF is NaN. Negative numbers become zero.
struct UE5M3 {
  using Signed = Minifloat<5, 3, Top::fn>;
  static constexpr int bits = 8;
  static constexpr float lowest = 0, highest = Signed::highest;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
  static std::uint16_t encode(float x) {
    const std::uint16_t code = Signed::encode(x);
    return code <= 0xff ? code : 0;
  }
  static float decode(std::uint16_t code) { return Signed::decode(code & 0xff); }
};

/// Powers of two without sign or zero: 2^(code - 127); 0xFF is NaN.
struct E8M0 {
  static constexpr int bits = 8;
  static constexpr float lowest = 0x1p-127f, highest = 0x1p127f;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = DType::f8e8m0;
  static std::uint16_t encode(float x) { return e8m0_nearest(x); }
  static float decode(std::uint16_t code) { return e8m0_value(static_cast<std::uint8_t>(code)); }
};

/// Half and bfloat16 as formats saturate; as tensor types (from_f32) they overflow to infinity.
struct F16 {
  static constexpr int bits = 16;
  static constexpr float lowest = -65504, highest = 65504;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = DType::f16;
  static std::uint16_t encode(float x) {
    const std::uint16_t c = float_to_f16(x);
    return (c & 0x7fff) == 0x7c00 ? static_cast<std::uint16_t>(c - 1) : c;
  }
  static float decode(std::uint16_t code) { return f16_to_float(code); }
};

struct BF16 {
  static constexpr int bits = 16;
  static constexpr float lowest = -0x1.fep127f, highest = 0x1.fep127f;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = DType::bf16;
  static std::uint16_t encode(float x) {
    const std::uint16_t c = float_to_bf16(x);
    return (c & 0x7fff) == 0x7f80 ? static_cast<std::uint16_t>(c - 1) : c;
  }
  static float decode(std::uint16_t code) { return bf16_to_float(code); }
};

}  // namespace

constinit const NumberFormat e1m1 = describe<Small<1, 1>>("e1m1");
constinit const NumberFormat e2m0 = describe<Small<2, 0>>("e2m0");
constinit const NumberFormat e1m2 = describe<Small<1, 2>>("e1m2");
constinit const NumberFormat e2m1 = describe<Standard<2, 1, Top::finite, DType::f4e2m1>>("e2m1");
constinit const NumberFormat e3m0 = describe<Small<3, 0>>("e3m0");
constinit const NumberFormat e2m2 = describe<Small<2, 2>>("e2m2");
constinit const NumberFormat e3m1 = describe<Small<3, 1>>("e3m1");
constinit const NumberFormat e2m3 = describe<Standard<2, 3, Top::finite, DType::f6e2m3>>("e2m3");
constinit const NumberFormat e3m2 = describe<Standard<3, 2, Top::finite, DType::f6e3m2>>("e3m2");
constinit const NumberFormat e2m4 = describe<Small<2, 4>>("e2m4");
constinit const NumberFormat e3m3 = describe<Small<3, 3>>("e3m3");
constinit const NumberFormat e4m2 = describe<Small<4, 2>>("e4m2");
constinit const NumberFormat e3m4 = describe<Small<3, 4, Top::ieee>>("e3m4");
constinit const NumberFormat e4m3 = describe<Standard<4, 3, Top::fn, DType::f8e4m3fn>>("e4m3");
constinit const NumberFormat e4m3fnuz = describe<Standard<4, 3, Top::fnuz, DType::f8e4m3fnuz>>("e4m3fnuz");
constinit const NumberFormat e4m3ieee = describe<Small<4, 3, Top::ieee>>("e4m3ieee");
constinit const NumberFormat e5m2 = describe<Standard<5, 2, Top::ieee, DType::f8e5m2>>("e5m2");
constinit const NumberFormat e5m2fnuz = describe<Standard<5, 2, Top::fnuz, DType::f8e5m2fnuz>>("e5m2fnuz");
constinit const NumberFormat ue5m3 = describe<UE5M3>("ue5m3");
constinit const NumberFormat e8m0 = describe<E8M0>("e8m0");
constinit const NumberFormat f16 = describe<F16>("f16");
constinit const NumberFormat bf16 = describe<BF16>("bf16");

}  // namespace qtool::number

// SPDX-License-Identifier: Apache-2.0
// What the tests of block formats share: the vector of number-formats.md section 6, and codes as hexadecimal digits.
#pragma once

#include <cstdio>
#include <string>

#include "formats/ir/quant.h"

namespace qtool::known {

/// Section 6: 32 numbers of [-2, 2), one of them four times as large.
inline Tensor vector() {
  Tensor x(DType::f32, {1, 32});
  const auto out = x.write<float>();
  for (int i = 0; i < 32; ++i) out[static_cast<std::size_t>(i)] = static_cast<float>((37 * i + 11) % 64 - 32) / 16.0f;
  out[5] *= 4;
  return x;
}

inline std::string hex_codes(const Tensor& codes, int digits, std::uint16_t mask) {
  std::string out;
  const Tensor values = to_f32(codes);
  for (const float c : values.read<float>()) {
    char text[8];
    std::snprintf(text, sizeof text, "%0*X", digits, static_cast<unsigned>(static_cast<int>(c) & mask));
    out += text;
  }
  return out;
}

/// The codes of scales in their own format.
inline std::string hex_scales(const QuantSpec& spec) {
  std::string out;
  for (const float s : spec.scale.read<float>()) {
    const float magnitude = s < 0 ? -s : s;
    std::uint16_t code = 0;
    spec.scale_format->encode({&magnitude, 1}, {&code, 1});
    char text[8];
    std::snprintf(text, sizeof text, "%02X", static_cast<unsigned>(s < 0 ? code | 0x80 : code));
    out += text;
  }
  return out;
}

inline double squared_error(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.read<float>().size(); ++i) {
    const double d = static_cast<double>(a.read<float>()[i]) - b.read<float>()[i];
    sum += d * d;
  }
  return sum;
}

inline QuantSpec grouped(const NumberFormat& format, std::int64_t group) {
  QuantSpec s;
  s.format = &format;
  s.grain = {Grain::Kind::groups, 1, group, 0};
  return s;
}

/// The spec of a scheme in its own groups along axis 1.
inline QuantSpec grouped(const Scheme& scheme) { return spec_of(scheme, {Grain::Kind::groups, 1, scheme.group, 0}); }
inline QuantSpec grouped(std::string_view scheme) { return grouped(*find_scheme(scheme)); }

}  // namespace qtool::known

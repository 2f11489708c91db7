// SPDX-License-Identifier: Apache-2.0
// describe<X>: a NumberFormat from a struct X with bits, lowest, highest, is_integer, onnx, encode(float) and
// decode(code). Internal to formats/number.
#pragma once

#include <algorithm>

#include "formats/number/number.h"

namespace qtool::number {

template <class X>
void encode_all(std::span<const float> x, std::span<std::uint16_t> codes) {
  const std::size_t n = std::min(x.size(), codes.size());
  for (std::size_t i = 0; i < n; ++i) codes[i] = X::encode(x[i]);
}

template <class X>
void decode_all(std::span<const std::uint16_t> codes, std::span<float> x) {
  const std::size_t n = std::min(x.size(), codes.size());
  for (std::size_t i = 0; i < n; ++i) x[i] = X::decode(codes[i]);
}

template <class X>
constexpr NumberFormat describe(std::string_view name) {
  return {name, X::bits, X::lowest, X::highest, encode_all<X>, decode_all<X>, X::is_integer, X::onnx};
}

}  // namespace qtool::number

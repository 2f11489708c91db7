// SPDX-License-Identifier: Apache-2.0
// NumberFormat: a finite set of reals, each with a code. Scales, offsets and sharing are not its business
// (formats/ir/quant.h). One row of facts per format; list.inc names them all.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "formats/ir/tensor.h"

namespace qtool {

struct NumberFormat {
  std::string_view name;
  int bits;               // one code, before packing; at most 16
  float lowest, highest;  // the range of finite values
  /// Nearest code, ties to the even code, saturating. Integer codes are two's complement in `bits` bits.
  /// NaN: the code of NaN where there is one, else that of zero for integers and of the maximum for minifloats.
  void (*encode)(std::span<const float>, std::span<std::uint16_t>);
  void (*decode)(std::span<const std::uint16_t>, std::span<float>);
  bool is_integer;            // codes are consecutive integers; a zero point may be added
  std::optional<DType> onnx;  // the ONNX element type that stores these codes, if there is one
};

/// Null when no format has that name.
const NumberFormat* find_number(std::string_view name);
/// All, in the order of list.inc.
std::span<const NumberFormat* const> numbers();

namespace number {
#define QTOOL_NUMBER(name) extern const NumberFormat name;
#include "formats/number/list.inc"
#undef QTOOL_NUMBER
}  // namespace number

}  // namespace qtool

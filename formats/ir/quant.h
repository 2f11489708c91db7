// SPDX-License-Identifier: Apache-2.0
// QuantSpec: how one use of a value is represented: number format, scales, who shares them, codes.
//
// Dequantization:  x^ = second_scale * scale * (decode(code) - zero_point)     integer formats
//                  x^ = second_scale * scale *  decode(code)  (+ minimum)      other formats
// Quantization of integers: code = saturate(round_half_even(x / scale) + zero_point), in [lowest, highest].
// All scale arithmetic is float32, as runtimes do it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "formats/ir/graph.h"
#include "formats/ir/tensor.h"
#include "formats/number/number.h"

namespace qtool {

/// Who shares a scale.
struct Grain {
  enum class Kind : std::uint8_t {
    tensor,  // one scale, shape []
    axis,    // one per index of `axis`, shape [n]
    groups,  // one per `group` consecutive elements along `axis`; shape of x with that axis ceil-divided
    blocks,  // 2-D tiles of group x group2 over the last two axes
  };
  Kind kind = Kind::tensor;
  int axis = 0;  // never negative once stored
  std::int64_t group = 0;
  std::int64_t group2 = 0;
  friend bool operator==(const Grain&, const Grain&) = default;
};

/// Shape of the scales of a tensor of shape `x` under `grain`. Error(Code::internal) for an axis out of range.
Shape scale_shape(const Grain&, const Shape& x);

struct QuantSpec {
  const NumberFormat* format = nullptr;        // never null once assigned
  const NumberFormat* scale_format = nullptr;  // null: float32 scales
  Grain grain;
  /// Symmetric formats keep zero_point empty or zero. `narrow`: the lowest code is unused ([-127, 127]).
  bool symmetric = true;
  bool narrow = false;
  /// Empty scale: dynamic, taken from each batch at run time (or not yet calibrated).
  Tensor scale;          // f32, shape as scale_shape
  Tensor second_scale;   // one level up (NVFP4); usually empty
  Tensor zero_point;     // i32, shape of scale; empty: zero
  Tensor minimum;        // f32, real offset for formats without integer zero point; usually empty
  Tensor codes;          // constants only: code_type(format), shape of x; empty: nearest code
  bool dynamic = false;  // true: scales are meant to be taken at run time
  /// A bias: int32 with scale = product of the scales of this node's inputs 0 and 1 (x and weight).
  bool is_bias = false;
};

/// Chooses symmetric or asymmetric scales from ranges (number-formats.md section 2): ranges are widened to contain
/// 0; an all-zero range gets scale 1. `low` and `high`: one entry per scale. Writes spec.scale and spec.zero_point
/// for a value of shape `x`.
///   symmetric, signed       scale = max|x| / highest, no zero point
///   symmetric, unsigned     the same about zero point 2^(bits-1); where no range goes below zero: no zero point
///   not symmetric           scale = (high - low) / (highest - lowest), integers only; others stay symmetric
///   scale_format e8m0       power of two, OCP MX with rule "even" (number-formats.md section 5)
///   scale_format, other     rounded to it; second_scale, where empty, becomes what makes the largest scale fit
/// Error(Code::calibration) for a range that is not finite.
void set_scales(QuantSpec& spec, std::span<const float> low, std::span<const float> high, const Shape& x);

/// Min and max per scale of `grain` over a float32 tensor; 0, 0 where there is no element. Error(Code::input) for a
/// NaN or an infinity; the caller knows whose it is and adds the name.
void ranges_of(const Tensor& x, const Grain& grain, std::vector<float>& low, std::vector<float>& high);

/// Sum of squared differences of two float32 tensors of one shape, per scale of `grain`.
std::vector<double> squared_errors(const Tensor& x, const Tensor& y, const Grain& grain);

/// How codes are held, one element each: i8 for signed integers of 8 bits or fewer, u8 for other formats of 8 bits or
/// fewer, the bits in u16 above.
DType code_type(const NumberFormat&);

/// The spec with scales: its own, or those that the range of the float32 tensor `x` gives where it has none or is
/// dynamic.
QuantSpec with_scales(const QuantSpec& spec, const Tensor& x);

/// Codes of a float32 tensor under a spec with scales: a tensor of code_type(*spec.format) and the shape of x. Uses
/// spec.codes when present. NaN becomes the zero point of integers. A bias (is_bias): i32 codes instead, scale must be
/// present.
Tensor quantize(const Tensor& x, const QuantSpec& spec);
/// float32 values of such codes.
Tensor dequantize(const Tensor& codes, const QuantSpec& spec);
/// dequantize(quantize(x)): the value as a consumer of this use sees it. Dynamic specs take their scales from x.
/// f16 and bf16 tensors keep their type.
Tensor fake_quantize(const Tensor& x, const QuantSpec& spec);

/// Codes packed as ONNX stores them: dtype spec.format->onnx, shape of `codes`.
Tensor pack_codes(const Tensor& codes, const QuantSpec& spec);
/// One element per code again, i8 or u8, or u16 for types of 16 bits.
Tensor unpack_codes(const Tensor& packed);

}  // namespace qtool

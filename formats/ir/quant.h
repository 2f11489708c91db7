// SPDX-License-Identifier: Apache-2.0
// QuantSpec: how one use of a value is represented: number format, scales, who shares them, codes.
//
// Dequantization:  x^ = s * (decode(code) - zero_point) + minimum,  zero points for integer formats alone, where
//                  s  = second_scale * scale + scale_mean           (effective_scales below)
// Quantization of integers: code = saturate(round_half_even(x / s) + zero_point), in [lowest, highest].
// All scale arithmetic is float32, as runtimes do it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "formats/ir/graph.h"
#include "formats/ir/tensor.h"
#include "formats/number/number.h"
#include "formats/number/scheme.h"

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

/// Indices [begin, end) along an axis that are decided otherwise than the rest: outlier columns at more bits, or in
/// float (no quant). Its spec is for that part of the value alone; its grain counts within the part.
struct IndexRange {
  std::int64_t begin = 0, end = 0;
  Quant quant;
};

struct QuantSpec {
  const NumberFormat* format = nullptr;        // never null once assigned
  const NumberFormat* scale_format = nullptr;  // null: float32 scales
  /// Format of the groups whose scale is negative; its magnitude is the scale (IF4). Null: no such groups.
  const NumberFormat* alternative = nullptr;
  Grain grain;
  ScaleRule rule = ScaleRule::range;  // how scales are chosen where there are none
  /// Symmetric formats keep zero_point empty or zero. `narrow`: the lowest code is unused ([-127, 127]).
  bool symmetric = true;
  bool narrow = false;
  /// Empty scale: dynamic, taken from each batch at run time (or not yet calibrated).
  Tensor scale;                   // f32, shape as scale_shape
  Tensor second_scale;            // f32, one level up: one for all (NVFP4), one each, or one for every `second_group`
  std::int64_t second_group = 0;  // scales, in memory order, that share a second scale; 0: all, or none with another
  Tensor scale_mean;              // f32 scalar; empty: zero. Double quantization (QLoRA) alone has one
  Tensor zero_point;              // i32, shape of scale; empty: zero
  Tensor minimum;                 // f32, real offset, shape of scale; usually empty
  Tensor codes;                   // constants only: code_type(format), shape of x; empty: nearest code
  bool dynamic = false;           // true: scales are meant to be taken at run time
  /// A bias: int32 with scale = product of the scales of this node's inputs 0 and 1 (x and weight).
  bool is_bias = false;
  /// Parts along `range_axis` with decisions of their own, ascending and apart. What is said above is for the value
  /// with zeros in their place, so that no scale depends on them.
  int range_axis = 0;
  std::vector<IndexRange> ranges;
};

/// What a scheme decides: formats, levels, rule; symmetric, without scales.
QuantSpec spec_of(const Scheme&, const Grain&);

/// Everything in a spec that is a tensor, in a fixed order; `codes` comes last.
std::array<Tensor*, 6> tensors_of(QuantSpec&);
std::array<const Tensor*, 6> tensors_of(const QuantSpec&);

/// Scales with both levels multiplied out, in memory order; below zero where the alternative format is meant.
/// Requires: scales are there.
std::vector<float> effective_scales(const QuantSpec&);

/// Elements with index [begin, end) along `axis`, and the same written back into `x`.
Tensor part_of(const Tensor& x, int axis, std::int64_t begin, std::int64_t end);
void put_part(Tensor& x, int axis, std::int64_t begin, const Tensor& part);
/// The float32 tensor that the scales and codes of `spec` itself are for: x with zeros in the place of its ranges.
Tensor outside_ranges(const Tensor& x, const QuantSpec& spec);

/// Chooses symmetric or asymmetric scales from ranges (number-formats.md section 2): ranges are widened to contain
/// 0; an all-zero range gets scale 1. `low` and `high`: one entry per scale. Writes spec.scale and spec.zero_point
/// for a value of shape `x`.
///   symmetric, signed       scale = max|x| / highest, no zero point
///   symmetric, unsigned     the same about zero point 2^(bits-1); where no range goes below zero: no zero point
///   not symmetric           scale = (high - low) / (highest - lowest), integers only; others stay symmetric
///   scale_format e8m0       power of two by spec.rule (number-formats.md section 5); range and search: even
///   scale_format, other     rounded to it; second_scale, where empty, becomes what makes the largest scale fit
///   second_group            scales less their mean, in blocks (QLoRA's double quantization)
/// Error(Code::calibration) for a range that is not finite.
void set_scales(QuantSpec& spec, std::span<const float> low, std::span<const float> high, const Shape& x);

/// set_scales() from the ranges of the numeric tensor `x`, then, for the rules search and four_over_six and for specs
/// with an alternative format, of the scales near those the ones with the least squared error. `weight`: how much the
/// error of each element counts, shape of x; empty: equally.
void choose_scales(QuantSpec& spec, const Tensor& x, const Tensor& weight = {});

/// Min and max per scale of `grain` over a numeric tensor; 0, 0 where there is no element. Error(Code::input) for a
/// NaN or an infinity; the caller knows whose it is and adds the name.
void ranges_of(const Tensor& x, const Grain& grain, std::vector<float>& low, std::vector<float>& high);

/// Sum of squared differences of two float32 tensors of one shape, per scale of `grain`; each counted `weight` times,
/// where there is one.
std::vector<double> squared_errors(const Tensor& x, const Tensor& y, const Grain& grain, const Tensor& weight = {});

/// How codes are held, one element each: i8 for signed integers of 8 bits or fewer, u8 for other formats of 8 bits or
/// fewer, the bits in u16 above.
DType code_type(const NumberFormat&);

/// The spec with scales: its own, or those that the range of the numeric tensor `x` gives where it has none or is
/// dynamic.
QuantSpec with_scales(const QuantSpec& spec, const Tensor& x);

/// Codes of a float32 tensor under a spec with scales: a tensor of code_type(*spec.format) and the shape of x. Uses
/// spec.codes when present. NaN becomes the zero point of integers. A bias (is_bias): i32 codes instead, scale must be
/// present. Codes in the place of spec.ranges are those of zeros.
Tensor quantize(const Tensor& x, const QuantSpec& spec);
/// The same of a constant of any numeric type, made when somebody reads them: what looks at them in turn or in parts
/// (Tensor::read) needs no memory for all. Requires: no codes. Those of ranges and biases are there at once.
Tensor nearest_codes(const Tensor& data, const QuantSpec& spec);
/// Some consecutive elements of a constant: themselves, what their codes mean, the codes.
struct CodedPart {
  std::size_t begin;
  std::span<const float> x, coded;
  std::span<const std::byte> codes;
};
/// Part by part, in order, a constant of any numeric type under a spec with scales; its codes, or the nearest where it
/// has none. Requires: no ranges, no bias.
void for_each_coded(const Tensor& data, const QuantSpec& spec, const std::function<void(const CodedPart&)>&);
/// float32 values of such codes. Ranges come from their own codes, which they must have.
Tensor dequantize(const Tensor& codes, const QuantSpec& spec);
/// dequantize(quantize(x)): the value as a consumer of this use sees it. Dynamic specs take their scales from x.
/// f16 and bf16 tensors keep their type.
Tensor fake_quantize(const Tensor& x, const QuantSpec& spec);

/// Codes packed as ONNX stores them, made when they are read: dtype spec.format->onnx, shape of `codes`.
Tensor pack_codes(const Tensor& codes, const QuantSpec& spec);
/// One element per code again, i8 or u8, or u16 for types of 16 bits.
Tensor unpack_codes(const Tensor& packed);

}  // namespace qtool

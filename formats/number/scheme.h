// SPDX-License-Identifier: Apache-2.0
// Scheme: a number format with what belongs to it: who shares a scale, how scales are stored and how they are chosen.
// What recipes name as `weights:`. Every number format is a scheme too, with float32 scales shared as the recipe says;
// block formats are rows of schemes.inc. Source: number-formats.md sections 1, 4 to 8.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "formats/number/number.h"

namespace qtool {

/// How a scale follows from the numbers that share it. amax: the largest magnitude; emax, highest: of the element.
enum class ScaleRule : std::uint8_t {
  range,          // amax becomes the highest value; with scales e8m0: even
  full_range,     // signed integers: the number of largest magnitude becomes the lowest code, or its mirror
  floor,          // e8m0: 2^(floor(log2 amax) - emax)                                     OCP MX 1.0
  even,           // e8m0: the same after rounding amax to the mantissa of the element
  ceil,           // e8m0: 2^(ceil(log2 amax) - emax)
  rceil,          // e8m0: 2^ceil(log2(amax / highest)), which never clips
  search,         // the least squared error near the rule `range`; from ranges alone: that rule
  four_over_six,  // e2m1: amax becomes 6 or 4, whichever has the smaller squared error (arXiv 2512.02010)
};

std::string_view name_of(ScaleRule);
/// All names, in the order of the enumeration.
std::span<const std::string_view> scale_rules();

/// One level above the scales.
enum class Second : std::uint8_t {
  none,
  tensor,  // one float32 for all scales
  groups,  // mean of all, then one float32 for every `double_group` of them (QLoRA's double quantization)
};
constexpr std::int64_t double_group = 256;

struct Scheme {
  std::string_view name;
  const NumberFormat* element;
  const NumberFormat* scale = nullptr;  // null: float32
  std::int64_t group = 0;               // elements per scale; 0: as the recipe says
  Second second = Second::none;
  ScaleRule rule = ScaleRule::range;
  bool narrow = false;                        // the lowest code is left out
  const NumberFormat* alternative = nullptr;  // elements of groups whose scale has a minus sign

  /// Bits per element, scales included, where `shared` elements have one; a float32 scale counts 32 bits. What a whole
  /// tensor shares is left out.
  double bits_per_element(std::int64_t shared) const;
};

/// Null when no scheme has that name.
const Scheme* find_scheme(std::string_view name);
/// The scheme of a number format alone, which has its name.
const Scheme& scheme_of(const NumberFormat&);
/// Number formats in the order of list.inc, then block formats in the order of schemes.inc.
std::span<const Scheme> schemes();

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/steps.h"

#include <algorithm>

#include "formats/base/error.h"

namespace qtool {

QuantSpec spec_of(const Scheme& scheme, const Grain& grain) {
  QuantSpec spec;
  spec.format = scheme.element;
  spec.scale_format = scheme.scale;
  spec.alternative = scheme.alternative;
  spec.grain = grain;
  spec.rule = scheme.rule;
  spec.narrow = scheme.narrow;
  if (scheme.second == Second::groups) spec.second_group = double_group;
  // One level of scales: an empty second scale would be chosen with them.
  const bool one_level = scheme.second == Second::none && scheme.scale != nullptr && scheme.scale != &number::e8m0;
  if (one_level) spec.second_scale = Tensor::scalar(1.0f);
  return spec;
}

std::array<Tensor*, 6> tensors_of(QuantSpec& s) {
  return {&s.scale, &s.second_scale, &s.scale_mean, &s.zero_point, &s.minimum, &s.codes};
}

std::array<const Tensor*, 6> tensors_of(const QuantSpec& s) {
  return {&s.scale, &s.second_scale, &s.scale_mean, &s.zero_point, &s.minimum, &s.codes};
}

namespace {

/// Both levels of the scales [first, first + count) multiplied out.
std::vector<float> effective(const QuantSpec& spec, std::size_t first, std::size_t count) {
  const auto scale = spec.scale.read<float>();
  std::vector<float> some(scale.begin() + static_cast<std::ptrdiff_t>(first),
                          scale.begin() + static_cast<std::ptrdiff_t>(first + count));
  if (!spec.second_scale.empty()) {
    const auto second = spec.second_scale.read<float>();
    const std::size_t shared = spec.second_group > 0 ? static_cast<std::size_t>(spec.second_group)
                               : second.size() == 1  ? std::max<std::size_t>(scale.size(), 1)
                                                     : 1;
    QTOOL_ENSURE(second.size() == (scale.size() + shared - 1) / shared, "second scales fit the scales");
    for (std::size_t i = 0; i < count; ++i) some[i] = second[(first + i) / shared] * some[i];
  }
  if (!spec.scale_mean.empty()) {
    for (float& s : some) s += spec.scale_mean.read<float>()[0];
  }
  return some;
}

}  // namespace

std::vector<float> effective_scales(const QuantSpec& spec) {
  return effective(spec, 0, static_cast<std::size_t>(spec.scale.count()));
}

QuantSpec without_ranges(QuantSpec spec) {
  spec.ranges.clear();
  return spec;
}

float lowest_code(const QuantSpec& spec) { return spec.format->lowest + (spec.narrow ? 1.0f : 0.0f); }

void check_scales(const QuantSpec& spec, const Shape& x) {
  QTOOL_ENSURE(!spec.scale.empty(), "a quant spec has scales when codes are made");
  const auto wanted = element_count(scale_shape(spec.grain, x));
  QTOOL_ENSURE(spec.scale.count() == wanted, "scales fit the value and its grain");
}

Steps steps_of(const QuantSpec& spec, std::size_t first, std::size_t count) {
  QTOOL_ENSURE(spec.format != nullptr, "a quant spec names its format");
  QTOOL_ENSURE(!spec.scale.empty(), "a quant spec has scales when codes are made");
  const auto all = static_cast<std::size_t>(spec.scale.count());
  QTOOL_ENSURE(first + count <= all, "scales fit the value and its grain");
  const auto at = static_cast<std::ptrdiff_t>(first), end = static_cast<std::ptrdiff_t>(first + count);
  Steps s;
  s.scale = effective(spec, first, count);
  s.zero.assign(count, 0.0f);
  if (!spec.zero_point.empty()) {
    const auto zero = spec.zero_point.read<std::int32_t>();
    QTOOL_ENSURE(zero.size() == all, "zero points fit the scales");
    std::transform(zero.begin() + at, zero.begin() + end, s.zero.begin(),
                   [](std::int32_t z) { return static_cast<float>(z); });
  }
  s.minimum.assign(count, 0.0f);
  if (!spec.minimum.empty()) {
    const auto minimum = spec.minimum.read<float>();
    QTOOL_ENSURE(minimum.size() == all, "minima fit the scales");
    s.minimum.assign(minimum.begin() + at, minimum.begin() + end);
  }
  const float low = lowest_code(spec), high = spec.format->highest;
  s.low.resize(count);
  s.high.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    s.low[i] = low - s.zero[i];
    s.high[i] = high - s.zero[i];
  }
  return s;
}

}  // namespace qtool

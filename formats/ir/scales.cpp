// SPDX-License-Identifier: Apache-2.0
// Scales from ranges, and from the numbers themselves where a rule looks for the least error (number-formats.md
// sections 2, 5, 7 and 8).
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/steps.h"
#include "formats/number/e8m0.h"

namespace qtool {
namespace {

constexpr float smallest = std::numeric_limits<float>::min();  // runtimes may flush subnormals to zero

float largest(std::span<const float> low, std::span<const float> high, std::size_t i) {
  return std::max(std::fabs(low[i]), std::fabs(high[i]));
}

/// Mantissa bits of a format: those that tell the values of its highest binade apart.
int mantissa_bits(const NumberFormat& format) {
  if (format.is_integer) return format.bits - 2;
  const float values[] = {format.highest, static_cast<float>(std::exp2(std::ilogb(format.highest)))};
  std::uint16_t codes[2] = {};
  format.encode({values, 2}, {codes, 2});
  return std::bit_width(static_cast<unsigned>(codes[0] - codes[1]));
}

/// The power of two that a block with this largest magnitude gets (number-formats.md section 5).
float power_scale(float amax, const NumberFormat& format, ScaleRule rule) {
  const auto bits = std::bit_cast<std::uint32_t>(amax);
  const int emax = std::ilogb(format.highest);
  int exponent = static_cast<int>(bits >> 23) - emax;  // rule floor
  if (rule == ScaleRule::ceil) {
    exponent = static_cast<int>((bits + 0x7fffffu) >> 23) - emax;
  } else if (rule == ScaleRule::rceil) {
    const bool clips = std::ldexp(static_cast<double>(format.highest), exponent - 127) < static_cast<double>(amax);
    exponent += clips ? 1 : 0;
  } else if (rule != ScaleRule::floor) {
    const auto drop = static_cast<std::uint32_t>(23 - mantissa_bits(format));
    exponent = static_cast<int>((bits + (1u << (drop - 1))) >> 23) - emax;
  }
  return e8m0_value(static_cast<std::uint8_t>(std::clamp(exponent, 0, 254)));
}

/// Rounded to the format of scales, to its smallest where it would vanish.
float rounded(float s, const NumberFormat& format) {
  std::uint16_t code = 0;
  float value = 0;
  format.encode({&s, 1}, {&code, 1});
  format.decode({&code, 1}, {&value, 1});
  if (value != 0) return value;
  code = 1;
  format.decode({&code, 1}, {&value, 1});
  return value;
}

/// As the format of scales holds it; float16 without its subnormals.
float stored(float s, const NumberFormat* format) {
  if (format == nullptr) return s;
  const float value = rounded(s, *format);
  return format == &number::f16 ? std::max(value, 0x1p-14f) : value;
}

/// Rules that try scales above the one that amax gives need room for them.
bool looks_around(ScaleRule rule) { return rule == ScaleRule::search || rule == ScaleRule::four_over_six; }

/// The second scale for the largest magnitude of a tensor: e4m3 scales reach 448, or 256 where there is to be room.
float tensor_scale(float amax, const QuantSpec& spec, float top) {
  if (amax == 0) return 1;
  const bool room = looks_around(spec.rule) && spec.scale_format == &number::e4m3;
  return std::max(amax / ((room ? 256.0f : spec.scale_format->highest) * top), smallest);
}

void set_integers_with_zeros(QuantSpec& spec, std::span<const float> low, std::span<const float> high) {
  const std::size_t n = low.size();
  const NumberFormat& format = *spec.format;
  const auto scale = spec.scale.write<float>();
  spec.zero_point = Tensor(DType::i32, spec.scale.shape());
  const auto zero = spec.zero_point.write<std::int32_t>();
  const float bottom = lowest_code(spec);
  for (std::size_t i = 0; i < n; ++i) {
    const float lo = std::min(low[i], 0.0f), hi = std::max(high[i], 0.0f);
    float s = (hi - lo) / (format.highest - bottom);
    if (!std::isfinite(s)) s = hi / (format.highest - bottom) - lo / (format.highest - bottom);
    s = lo == hi ? 1.0f : std::max(s, smallest);
    if (spec.scale_format == &number::f16) s = stored(s, spec.scale_format);
    scale[i] = s;
    zero[i] = static_cast<std::int32_t>(std::clamp(std::nearbyint(bottom - lo / s), bottom, format.highest));
  }
}

/// The number of largest magnitude becomes the lowest code. A positive one would make the scale negative; the same
/// numbers come from zero point -1 and the codes 7 .. -8 for -8 .. 7, so that all scales stay positive.
void set_full_range(QuantSpec& spec, std::span<const float> low, std::span<const float> high) {
  QTOOL_ENSURE(spec.symmetric && !spec.narrow && spec.format->is_integer && spec.format->lowest < 0,
               "the full range is that of signed integers without zero points");
  spec.zero_point = Tensor(DType::i32, spec.scale.shape());
  const auto scale = spec.scale.write<float>();
  const auto zero = spec.zero_point.write<std::int32_t>();
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const float amax = largest(low, high, i);
    scale[i] = amax == 0 ? 1.0f : stored(std::max(-amax / spec.format->lowest, smallest), spec.scale_format);
    zero[i] = high[i] > -low[i] ? -1 : 0;
  }
}

/// Double quantization (arXiv 2305.14314, section 3): scales less their mean, in blocks that share a second scale.
void set_double(QuantSpec& spec, std::span<const float> amax, float top) {
  const std::size_t n = amax.size(), block = static_cast<std::size_t>(spec.second_group);
  const NumberFormat& format = *spec.scale_format;
  double sum = 0;
  for (const float a : amax) sum += static_cast<double>(a / top);
  const float mean = n == 0 ? 0 : static_cast<float>(sum / static_cast<double>(n));
  spec.scale_mean = Tensor::scalar(mean);
  spec.second_scale = Tensor(DType::f32, {static_cast<std::int64_t>((n + block - 1) / block)});
  const auto scale = spec.scale.write<float>(), second = spec.second_scale.write<float>();
  for (std::size_t b = 0; b < second.size(); ++b) {
    const std::size_t from = b * block, to = std::min(n, from + block);
    float reach = 0;
    for (std::size_t i = from; i < to; ++i) reach = std::max(reach, std::fabs(amax[i] / top - mean));
    second[b] = reach = reach == 0 ? smallest : reach;
    for (std::size_t i = from; i < to; ++i) {
      const float s = (amax[i] / top - mean) / reach;
      std::uint16_t code = 0;
      format.encode({&s, 1}, {&code, 1});
      format.decode({&code, 1}, {&scale[i], 1});
      while (reach * scale[i] + mean < smallest && scale[i] < format.highest) {  // scales stay above zero
        ++code;
        format.decode({&code, 1}, {&scale[i], 1});
      }
    }
  }
  // Nothing but zeros: any scale serves.
  if (mean == 0) spec.scale_mean = Tensor::scalar(1.0f);
}

}  // namespace

void set_scales(QuantSpec& spec, std::span<const float> low, std::span<const float> high, const Shape& x) {
  QTOOL_ENSURE(spec.format != nullptr, "a quant spec names its format");
  const Shape shape = scale_shape(spec.grain, x);
  const auto n = static_cast<std::size_t>(element_count(shape));
  QTOOL_ENSURE(low.size() == n && high.size() == n, "one range per scale");
  for (std::size_t i = 0; i < n; ++i) {
    if (!std::isfinite(low[i]) || !std::isfinite(high[i])) {
      throw Error(Code::calibration, "a range that a scale is taken from is not finite",
                  "look for NaN or infinity in the model's weights and in the calibration data");
    }
  }
  const NumberFormat& format = *spec.format;
  const bool integer = format.is_integer, is_unsigned = integer && format.lowest == 0;
  const bool centred =
      spec.symmetric && is_unsigned && std::any_of(low.begin(), low.end(), [](float v) { return v < 0; });
  const float half = static_cast<float>(1 << (format.bits - 1));  // zero point of a centred unsigned format
  const float top = centred ? format.highest - half : format.highest;

  spec.scale = Tensor(DType::f32, shape);
  spec.zero_point = Tensor();
  if (!spec.symmetric && integer) return set_integers_with_zeros(spec, low, high);
  const bool plain = spec.scale_format == nullptr || spec.scale_format == &number::f16;
  if (spec.rule == ScaleRule::full_range && plain) return set_full_range(spec, low, high);
  std::vector<float> amax(n);
  for (std::size_t i = 0; i < n; ++i) amax[i] = largest(low, high, i);
  if (spec.second_group > 0) return set_double(spec, amax, top);
  const auto scale = spec.scale.write<float>();
  if (spec.scale_format == &number::e8m0) {
    for (std::size_t i = 0; i < n; ++i) scale[i] = power_scale(amax[i], format, spec.rule);
    return;
  }
  if (spec.scale_format != nullptr && spec.second_scale.empty()) {
    const float all = n == 0 ? 0.0f : *std::max_element(amax.begin(), amax.end());
    spec.second_scale = Tensor::scalar(tensor_scale(all, spec, top));
  }
  const auto second = spec.second_scale.empty() ? std::span<const float>{} : spec.second_scale.read<float>();
  for (std::size_t i = 0; i < n; ++i) {
    float s = amax[i] == 0 ? 1.0f : std::max(amax[i] / top, smallest);
    if (!second.empty() && amax[i] != 0) s /= second[second.size() == 1 ? 0 : i];
    scale[i] = stored(s, spec.scale_format);
  }
  if (centred) {
    spec.zero_point = Tensor(DType::i32, shape);
    const auto zero = spec.zero_point.write<std::int32_t>();
    std::fill(zero.begin(), zero.end(), static_cast<std::int32_t>(half));
  }
}

namespace {

/// Multiples of the scale that amax gives, the first one first where errors tie.
std::vector<float> ratios(const QuantSpec& spec) {
  if (spec.rule == ScaleRule::four_over_six) return {1.0f, 1.5f};
  if (spec.rule != ScaleRule::search || spec.second_group > 0) return {1.0f};  // scales of one block hang together
  if (spec.scale_format == &number::e8m0) return {1.0f, 2.0f, 0.5f};
  std::vector<float> all{1.0f};
  if (spec.scale_format == nullptr ||
      spec.scale_format ==
          &number::f16) {  // clipping: 0.98, ..., 0.52; a finer or longer walk gains less than two percent
    for (int i = 1; i < 25; ++i) all.push_back(1.0f - 0.02f * static_cast<float>(i));
  } else {  // 0.7, ..., 1.5: a larger scale may put the other numbers of a group nearer to codes
    for (int i = 0; i <= 32; ++i) all.push_back(0.7f + 0.025f * static_cast<float>(i));
  }
  return all;
}

/// `first` with every range multiplied, or, where scales have a format, with scales that are multiplied before they are
/// rounded.
QuantSpec multiplied(const QuantSpec& first, float ratio, std::span<const float> low, std::span<const float> high,
                     const Shape& x) {
  QuantSpec spec = first;
  std::vector<float> a(low.begin(), low.end()), b(high.begin(), high.end());
  if (spec.scale_format == &number::e8m0) {
    for (float& s : spec.scale.write<float>()) s = std::clamp(s * ratio, 0x1p-127f, 0x1p127f);
    return spec;
  }
  for (float& v : a) v *= ratio;
  for (float& v : b) v *= ratio;
  set_scales(spec, a, b, x);
  return spec;
}

}  // namespace

void choose_scales(QuantSpec& spec, const Tensor& given, const Tensor& weight) {
  const Tensor data = outside_ranges(given, spec);
  std::vector<float> low, high;
  ranges_of(data, spec.grain, low, high);
  if (spec.rule == ScaleRule::search && spec.scale_format == &number::e8m0) {
    QuantSpec floor = spec;
    floor.rule = ScaleRule::floor;
    set_scales(floor, low, high, data.shape());
    floor.rule = spec.rule;
    spec = std::move(floor);
  } else {
    set_scales(spec, low, high, data.shape());
  }
  const std::vector<float> all = ratios(spec);
  if (all.size() == 1 && spec.alternative == nullptr) return;
  const Tensor x = to_f32(data);
  const QuantSpec first = spec;
  std::vector<double> least(low.size(), std::numeric_limits<double>::infinity());
  const auto scale = spec.scale.write<float>();
  const auto zero = spec.zero_point.empty() ? std::span<std::int32_t>{} : spec.zero_point.write<std::int32_t>();
  for (const float ratio : all) {
    QuantSpec candidate = multiplied(first, ratio, low, high, x.shape());
    for (const bool negative : {false, true}) {
      if (negative && spec.alternative == nullptr) continue;
      if (negative) {
        for (float& s : candidate.scale.write<float>()) s = -s;
      }
      candidate.ranges.clear();
      const std::vector<double> errors = squared_errors(x, fake_quantize(x, candidate), spec.grain, weight);
      for (std::size_t i = 0; i < errors.size(); ++i) {
        if (!(errors[i] < least[i])) continue;
        least[i] = errors[i];
        scale[i] = candidate.scale.read<float>()[i];
        if (!zero.empty()) zero[i] = candidate.zero_point.read<std::int32_t>()[i];
      }
    }
  }
}

QuantSpec with_scales(const QuantSpec& spec, const Tensor& x) {
  QuantSpec now = spec;
  now.dynamic = false;
  for (IndexRange& r : now.ranges) {
    if (!r.quant) continue;
    r.quant = std::make_shared<const QuantSpec>(with_scales(*r.quant, part_of(x, now.range_axis, r.begin, r.end)));
  }
  if (!spec.dynamic && !spec.scale.empty()) return now;
  if (is_absent(x)) {
    set_some_scales(now, x.shape());
    return now;
  }
  choose_scales(now, x);
  return now;
}

}  // namespace qtool

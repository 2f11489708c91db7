// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/quant.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/absent.h"
#include "formats/number/e8m0.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Consecutive elements [begin, begin + length) whose scales are scale, scale + step, ... ; step is 0 or 1.
struct Run {
  std::size_t begin, length, scale;
  bool each;  // step 1
};

/// Cuts a tensor of shape `x` into runs, in memory order.
template <class F>
void for_each_run(const Grain& grain, const Shape& x, F f) {
  const std::int64_t total = element_count(x);
  if (total == 0) return;
  if (grain.kind == Grain::Kind::tensor) {
    f(Run{0, index(total), 0, false});
    return;
  }
  if (grain.kind == Grain::Kind::blocks) {
    const std::int64_t rows = x[x.size() - 2], columns = x.back(), outer = total / (rows * columns);
    const std::int64_t across = ceil_div(columns, grain.group2), down = ceil_div(rows, grain.group);
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < across; ++c) {
          const std::int64_t from = c * grain.group2, to = std::min(columns, from + grain.group2);
          f(Run{index((o * rows + r) * columns + from), index(to - from),
                index((o * down + r / grain.group) * across + c), false});
        }
      }
    }
    return;
  }
  const bool groups = grain.kind == Grain::Kind::groups;
  const std::int64_t n = x[index(grain.axis)];
  std::int64_t outer = 1, inner = 1;
  for (int a = 0; a < grain.axis; ++a) outer *= x[index(a)];
  for (std::size_t a = index(grain.axis) + 1; a < x.size(); ++a) inner *= x[a];
  if (!groups) {
    for (std::int64_t o = 0; o < outer; ++o) {
      if (inner == 1) {
        f(Run{index(o * n), index(n), 0, true});
        continue;
      }
      for (std::int64_t i = 0; i < n; ++i) f(Run{index((o * n + i) * inner), index(inner), index(i), false});
    }
    return;
  }
  const std::int64_t per_row = ceil_div(n, grain.group);
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t j = 0; j < per_row; ++j) {
      const std::int64_t from = j * grain.group, to = std::min(n, from + grain.group);
      if (inner == 1) {
        f(Run{index(o * n + from), index(to - from), index(o * per_row + j), false});
        continue;
      }
      for (std::int64_t i = from; i < to; ++i) {
        f(Run{index((o * n + i) * inner), index(inner), index((o * per_row + j) * inner), true});
      }
    }
  }
}

/// What each scale means for a code: x^ = scale * (decode(code) - zero) + minimum, with code - zero in [low, high].
/// One array per part, so that loops over scales run in vectors.
struct Steps {
  std::vector<float> scale, zero, minimum, low, high;

  struct Part {
    const float *scale, *zero, *minimum, *low, *high;
  };
  Part from(std::size_t i) const { return {&scale[i], &zero[i], &minimum[i], &low[i], &high[i]}; }
};

float lowest_code(const QuantSpec& spec) { return spec.format->lowest + (spec.narrow ? 1.0f : 0.0f); }

Steps steps_of(const QuantSpec& spec, std::size_t count) {
  QTOOL_ENSURE(spec.format != nullptr, "a quant spec names its format");
  QTOOL_ENSURE(!spec.scale.empty(), "a quant spec has scales when codes are made");
  QTOOL_ENSURE(index(spec.scale.count()) == count, "scales fit the value and its grain");
  const auto scale = spec.scale.read<float>();
  Steps s;
  s.scale.assign(scale.begin(), scale.end());
  if (!spec.second_scale.empty()) {
    const auto second = spec.second_scale.read<float>();
    QTOOL_ENSURE(second.size() == 1 || second.size() == count, "second scales fit");
    for (std::size_t i = 0; i < count; ++i) s.scale[i] = second[second.size() == 1 ? 0 : i] * scale[i];
  }
  s.zero.assign(count, 0.0f);
  if (!spec.zero_point.empty()) {
    const auto zero = spec.zero_point.read<std::int32_t>();
    QTOOL_ENSURE(zero.size() == count, "zero points fit the scales");
    std::transform(zero.begin(), zero.end(), s.zero.begin(), [](std::int32_t z) { return static_cast<float>(z); });
  }
  s.minimum.assign(count, 0.0f);
  if (!spec.minimum.empty()) {
    const auto minimum = spec.minimum.read<float>();
    QTOOL_ENSURE(minimum.size() == count, "minima fit the scales");
    s.minimum.assign(minimum.begin(), minimum.end());
  }
  const float low = lowest_code(spec), high = spec.format->highest;
  for (const float zero : s.zero) {
    s.low.push_back(low - zero);
    s.high.push_back(high - zero);
  }
  return s;
}

/// round_half_even(clamp(x / scale)) for bounds that are integers below 2^22: the code less its zero point. The sum
/// with 1.5 * 2^23 rounds; it never gives minus zero.
QTOOL_INLINE inline float level(float x, float scale, float low, float high) {
  constexpr float magic = 12582912.0f;
  float v = x / scale;
  v = v == v ? v : 0.0f;
  v = v < low ? low : v;
  v = v > high ? high : v;
  return (v + magic) - magic;
}

double bias_code(float x, float scale) {
  const double r = std::nearbyint(static_cast<double>(x / scale));
  return r != r ? 0 : std::clamp(r, -2147483648.0, 2147483647.0);
}

void fake_integers(std::span<const float> x, std::span<float> out, const Grain& grain, const Shape& shape,
                   const Steps& steps) {
  for_each_run(grain, shape, [&](const Run& r) {
    const float* in = x.data() + r.begin;
    float* to = out.data() + r.begin;
    const float *scale = steps.scale.data() + r.scale, *low = steps.low.data() + r.scale,
                *high = steps.high.data() + r.scale;
    with_widest_vectors([&]() QTOOL_INLINE {
      if (r.each) {
        for (std::size_t i = 0; i < r.length; ++i) to[i] = level(in[i], scale[i], low[i], high[i]) * scale[i];
      } else {
        const float s = *scale, l = *low, h = *high;
        for (std::size_t i = 0; i < r.length; ++i) to[i] = level(in[i], s, l, h) * s;
      }
    });
  });
}

/// Formats that are no integers: scaled into a small buffer, encoded there, and back.
template <class F>
void for_each_chunk(std::span<const float> x, const QuantSpec& spec, const Shape& shape, const Steps& steps, F f) {
  constexpr std::size_t chunk = 512;
  float scaled[chunk];
  std::uint16_t codes[chunk];
  for_each_run(spec.grain, shape, [&](const Run& r) {
    for (std::size_t from = 0; from < r.length; from += chunk) {
      const std::size_t n = std::min(chunk, r.length - from);
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t s = r.scale + (r.each ? from + i : 0);
        scaled[i] = (x[r.begin + from + i] - steps.minimum[s]) / steps.scale[s];
      }
      spec.format->encode({scaled, n}, {codes, n});
      f(r, from, std::span<const std::uint16_t>(codes, n));
    }
  });
}

/// Codes of any of the three types, widened piece by piece: what the tables of number formats read.
void decode_codes(const Tensor& codes, std::span<float> out, const QuantSpec& spec, const Steps& steps) {
  constexpr std::size_t chunk = 2048;
  std::uint16_t wide[chunk];
  const auto widen = [&](const auto in) {
    for (std::size_t from = 0; from < in.size(); from += chunk) {
      const std::size_t n = std::min(chunk, in.size() - from);
      for (std::size_t i = 0; i < n; ++i) wide[i] = static_cast<std::uint16_t>(in[from + i]);
      spec.format->decode({wide, n}, out.subspan(from, n));
    }
  };
  switch (codes.dtype()) {
    case DType::i8: widen(codes.read<std::int8_t>()); break;
    case DType::u8: widen(codes.read<std::uint8_t>()); break;
    default: spec.format->decode(codes.read<std::uint16_t>(), out);
  }
  for_each_run(spec.grain, codes.shape(), [&](const Run& r) {
    for (std::size_t i = 0; i < r.length; ++i) {
      const std::size_t s = r.scale + (r.each ? i : 0);
      float& v = out[r.begin + i];
      v = steps.scale[s] * (v - steps.zero[s]);
      if (!spec.minimum.empty()) v += steps.minimum[s];
    }
  });
}

std::size_t scales_for(const QuantSpec& spec, const Shape& x) {
  return index(element_count(scale_shape(spec.grain, x)));
}

/// Codes of a run; `each`: element i has step i. Operands by value: stores of bytes might change whatever has an
/// address.
template <class T>
QTOOL_INLINE inline void encode_run(const float* x, std::size_t n, bool each, Steps::Part steps, T* to) {
  if (each) {
    QTOOL_INDEPENDENT
    for (std::size_t i = 0; i < n; ++i) {
      const float code = level(x[i] - steps.minimum[i], steps.scale[i], steps.low[i], steps.high[i]) + steps.zero[i];
      to[i] = static_cast<T>(static_cast<std::int32_t>(code));
    }
    return;
  }
  const float scale = *steps.scale, zero = *steps.zero, minimum = *steps.minimum, low = *steps.low, high = *steps.high;
  QTOOL_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    to[i] = static_cast<T>(static_cast<std::int32_t>(level(x[i] - minimum, scale, low, high) + zero));
  }
}

template <class T>
void encode(const Tensor& x, std::span<T> out, const QuantSpec& spec, const Steps& steps) {
  const auto in = x.read<float>();
  if (spec.format->is_integer) {
    for_each_run(spec.grain, x.shape(), [&](const Run& r) {
      with_widest_vectors([&]() QTOOL_INLINE {
        encode_run(in.data() + r.begin, r.length, r.each, steps.from(r.scale), out.data() + r.begin);
      });
    });
    return;
  }
  for_each_chunk(in, spec, x.shape(), steps, [&](const Run& r, std::size_t from, std::span<const std::uint16_t> c) {
    std::transform(c.begin(), c.end(), out.begin() + static_cast<std::ptrdiff_t>(r.begin + from),
                   [](std::uint16_t code) { return static_cast<T>(code); });
  });
}

Tensor quantize_bias(const Tensor& x, const QuantSpec& spec) {
  QTOOL_ENSURE(!spec.scale.empty(), "the scale of a bias is set before its codes are made");
  const Steps steps = steps_of(spec, scales_for(spec, x.shape()));
  Tensor codes(DType::i32, x.shape());
  const auto in = x.read<float>();
  const auto out = codes.write<std::int32_t>();
  for_each_run(spec.grain, x.shape(), [&](const Run& r) {
    for (std::size_t i = r.begin; i < r.begin + r.length; ++i) {
      out[i] = static_cast<std::int32_t>(bias_code(in[i], steps.scale[r.scale + (r.each ? i - r.begin : 0)]));
    }
  });
  return codes;
}

float largest(std::span<const float> low, std::span<const float> high, std::size_t i) {
  return std::max(std::fabs(low[i]), std::fabs(high[i]));
}

/// Mantissa bits of a format: codes are monotone, so from 1 to 2 there are 2^mantissa of them.
int mantissa_bits(const NumberFormat& format) {
  if (format.is_integer) return format.bits - 2;
  const float values[] = {1.0f, 2.0f};
  std::uint16_t codes[2] = {};
  format.encode({values, 2}, {codes, 2});
  return std::bit_width(static_cast<unsigned>(codes[1] - codes[0])) - 1;
}

/// OCP MX, rule "even": floor(log2) of amax rounded to the mantissa of the element, less the element's own exponent.
float mx_scale(float amax, const NumberFormat& format) {
  const auto drop = static_cast<std::uint32_t>(23 - mantissa_bits(format));
  const std::uint32_t rounded = std::bit_cast<std::uint32_t>(amax) + (1u << (drop - 1));
  const int exponent = static_cast<int>(rounded >> 23) - std::ilogb(format.highest);
  return e8m0_value(static_cast<std::uint8_t>(std::clamp(exponent, 0, 254)));
}

}  // namespace

Shape scale_shape(const Grain& grain, const Shape& x) {
  const auto rank = static_cast<int>(x.size());
  switch (grain.kind) {
    case Grain::Kind::tensor: return {};
    case Grain::Kind::axis:
      QTOOL_ENSURE(grain.axis >= 0 && grain.axis < rank, "the axis of a grain is one of the value's");
      return {x[index(grain.axis)]};
    case Grain::Kind::groups: {
      QTOOL_ENSURE(grain.axis >= 0 && grain.axis < rank && grain.group > 0, "groups lie along an axis of the value");
      Shape s = x;
      s[index(grain.axis)] = ceil_div(s[index(grain.axis)], grain.group);
      return s;
    }
    case Grain::Kind::blocks: {
      QTOOL_ENSURE(rank >= 2 && grain.group > 0 && grain.group2 > 0, "blocks tile the last two axes");
      Shape s = x;
      s[x.size() - 2] = ceil_div(s[x.size() - 2], grain.group);
      s.back() = ceil_div(s.back(), grain.group2);
      return s;
    }
  }
  return {};
}

void set_scales(QuantSpec& spec, std::span<const float> low, std::span<const float> high, const Shape& x) {
  QTOOL_ENSURE(spec.format != nullptr, "a quant spec names its format");
  const Shape shape = scale_shape(spec.grain, x);
  const std::size_t n = index(element_count(shape));
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
  const auto scale = spec.scale.write<float>();
  if (!spec.symmetric && integer) {
    spec.zero_point = Tensor(DType::i32, shape);
    const auto zero = spec.zero_point.write<std::int32_t>();
    const float bottom = lowest_code(spec);
    for (std::size_t i = 0; i < n; ++i) {
      const float lo = std::min(low[i], 0.0f), hi = std::max(high[i], 0.0f);
      float s = (hi - lo) / (format.highest - bottom);
      if (!std::isfinite(s)) s = hi / (format.highest - bottom) - lo / (format.highest - bottom);
      s = lo == hi ? 1.0f : std::max(s, std::numeric_limits<float>::min());  // runtimes may flush subnormals to zero
      scale[i] = s;
      zero[i] = static_cast<std::int32_t>(std::clamp(std::nearbyint(bottom - lo / s), bottom, format.highest));
    }
    return;
  }
  if (spec.scale_format == &number::e8m0) {
    for (std::size_t i = 0; i < n; ++i) scale[i] = mx_scale(largest(low, high, i), format);
    return;
  }
  float t = 1;  // the second scale: one level up
  if (spec.scale_format != nullptr && spec.second_scale.empty()) {
    float amax = 0;
    for (std::size_t i = 0; i < n; ++i) amax = std::max(amax, largest(low, high, i));
    t = amax / (spec.scale_format->highest * top);
    t = amax == 0 ? 1.0f : std::max(t, std::numeric_limits<float>::min());
    spec.second_scale = Tensor::scalar(t);
  }
  const auto second = spec.second_scale.empty() ? std::span<const float>{} : spec.second_scale.read<float>();
  for (std::size_t i = 0; i < n; ++i) {
    const float amax = largest(low, high, i);
    float s = amax == 0 ? 1.0f : std::max(amax / top, std::numeric_limits<float>::min());
    if (!second.empty() && amax != 0) s /= second[second.size() == 1 ? 0 : i];
    if (spec.scale_format != nullptr) {
      std::uint16_t code = 0;
      spec.scale_format->encode({&s, 1}, {&code, 1});
      float rounded = 0;
      spec.scale_format->decode({&code, 1}, {&rounded, 1});
      if (rounded == 0) {  // a group too small for the scale format: its smallest scale
        code = 1;
        spec.scale_format->decode({&code, 1}, {&rounded, 1});
      }
      s = rounded;
    }
    scale[i] = s;
  }
  if (centred) {
    spec.zero_point = Tensor(DType::i32, shape);
    const auto zero = spec.zero_point.write<std::int32_t>();
    std::fill(zero.begin(), zero.end(), static_cast<std::int32_t>(half));
  }
}

namespace {

/// Widens [low, high] to hold the values; false when one of them is not finite. One range per lane, so that the loop
/// runs in vectors.
bool extend(const float* v, std::size_t n, float& low, float& high) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr std::size_t lanes = 32;
  float lows[lanes], highs[lanes];
  std::int32_t bad[lanes] = {};
  std::fill(lows, lows + lanes, low);
  std::fill(highs, highs + lanes, high);
  std::size_t i = 0;
  with_widest_vectors([&]() QTOOL_INLINE {
    for (; i + lanes <= n; i += lanes) {
      for (std::size_t k = 0; k < lanes; ++k) {
        const float x = v[i + k];
        bad[k] += std::fabs(x) < inf ? 0 : 1;
        lows[k] = x < lows[k] ? x : lows[k];
        highs[k] = x > highs[k] ? x : highs[k];
      }
    }
  });
  for (std::size_t k = 0; i < n; ++i, ++k) {
    bad[k] += std::fabs(v[i]) < inf ? 0 : 1;
    lows[k] = std::min(v[i], lows[k]);
    highs[k] = std::max(v[i], highs[k]);
  }
  low = *std::min_element(lows, lows + lanes);
  high = *std::max_element(highs, highs + lanes);
  return std::all_of(bad, bad + lanes, [](std::int32_t b) { return b == 0; });
}

}  // namespace

void ranges_of(const Tensor& x, const Grain& grain, std::vector<float>& low, std::vector<float>& high) {
  const auto values = x.read<float>();
  const std::size_t n = index(element_count(scale_shape(grain, x.shape())));
  constexpr float inf = std::numeric_limits<float>::infinity();
  low.assign(n, inf);
  high.assign(n, -inf);
  bool finite = true;
  for_each_run(grain, x.shape(), [&](const Run& r) {
    const float* v = values.data() + r.begin;
    float* lo = low.data() + r.scale;
    float* hi = high.data() + r.scale;
    bool good = true;
    if (r.each) {
      for (std::size_t i = 0; i < r.length; ++i) {
        good &= std::fabs(v[i]) < inf;
        lo[i] = v[i] < lo[i] ? v[i] : lo[i];
        hi[i] = v[i] > hi[i] ? v[i] : hi[i];
      }
    } else {
      float l = *lo, h = *hi;
      good = extend(v, r.length, l, h);
      *lo = l;
      *hi = h;
    }
    finite = finite && good;
  });
  if (!finite) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    throw Error(Code::input, "element " + std::to_string(bad - values.begin()) + " is " +
                                 (std::isnan(*bad) ? "NaN" : "infinite") + ", so that no range can be taken");
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (low[i] > high[i]) low[i] = high[i] = 0;
  }
}

std::vector<double> squared_errors(const Tensor& x, const Tensor& y, const Grain& grain) {
  QTOOL_ENSURE(x.shape() == y.shape(), "tensors that are compared have one shape");
  const auto a = x.read<float>(), b = y.read<float>();
  std::vector<double> sums(index(element_count(scale_shape(grain, x.shape()))));
  for_each_run(grain, x.shape(), [&](const Run& r) {
    for (std::size_t i = 0; i < r.length; ++i) {
      const double d = static_cast<double>(a[r.begin + i]) - b[r.begin + i];
      sums[r.scale + (r.each ? i : 0)] += d * d;
    }
  });
  return sums;
}

DType code_type(const NumberFormat& format) {
  if (format.bits > 8) return DType::u16;
  return format.is_integer && format.lowest < 0 ? DType::i8 : DType::u8;
}

QuantSpec with_scales(const QuantSpec& spec, const Tensor& x) {
  QuantSpec now = spec;
  now.dynamic = false;
  if (!spec.dynamic && !spec.scale.empty()) return now;
  if (is_absent(x)) {
    set_some_scales(now, x.shape());
    return now;
  }
  std::vector<float> low, high;
  ranges_of(x, spec.grain, low, high);
  set_scales(now, low, high, x.shape());
  return now;
}

Tensor quantize(const Tensor& x, const QuantSpec& spec) {
  if (is_absent(x) && spec.codes.empty()) {
    return absent(spec.is_bias ? DType::i32 : code_type(*spec.format), x.shape());
  }
  if (spec.is_bias) return quantize_bias(x, spec);
  if (!spec.codes.empty()) {
    QTOOL_ENSURE(spec.codes.shape() == x.shape(), "chosen codes have the shape of their value");
    return spec.codes;
  }
  const Steps steps = steps_of(spec, scales_for(spec, x.shape()));
  Tensor codes = Tensor::unset(code_type(*spec.format), x.shape());
  switch (codes.dtype()) {
    case DType::i8: encode(x, codes.write<std::int8_t>(), spec, steps); break;
    case DType::u8: encode(x, codes.write<std::uint8_t>(), spec, steps); break;
    default: encode(x, codes.write<std::uint16_t>(), spec, steps);
  }
  return codes;
}

Tensor dequantize(const Tensor& codes, const QuantSpec& spec) {
  if (is_absent(codes)) return absent(DType::f32, codes.shape());
  const Steps steps = steps_of(spec, scales_for(spec, codes.shape()));
  Tensor x(DType::f32, codes.shape());
  const auto out = x.write<float>();
  if (codes.dtype() == DType::i32) {  // a bias
    const auto in = codes.read<std::int32_t>();
    for_each_run(spec.grain, codes.shape(), [&](const Run& r) {
      for (std::size_t i = 0; i < r.length; ++i) {
        out[r.begin + i] = steps.scale[r.scale + (r.each ? i : 0)] * static_cast<float>(in[r.begin + i]);
      }
    });
    return x;
  }
  decode_codes(codes, out, spec, steps);
  return x;
}

Tensor fake_quantize(const Tensor& x, const QuantSpec& spec) {
  if (is_absent(x)) return x;
  if (x.dtype() == DType::f16 || x.dtype() == DType::bf16) {
    return from_f32(fake_quantize(to_f32(x), spec), x.dtype());
  }
  if (spec.is_bias) return dequantize(quantize_bias(x, spec), spec);
  if (spec.dynamic || spec.scale.empty()) return fake_quantize(x, with_scales(spec, x));
  if (!spec.codes.empty()) return dequantize(quantize(x, spec), spec);
  const Steps steps = steps_of(spec, scales_for(spec, x.shape()));
  Tensor result = Tensor::unset(DType::f32, x.shape());
  const Tensor floats = to_f32(x);
  const auto in = floats.read<float>();
  const auto out = result.write<float>();
  if (spec.format->is_integer) {
    if (!spec.minimum.empty()) return dequantize(quantize(x, spec), spec);
    fake_integers(in, out, spec.grain, x.shape(), steps);
    return result;
  }
  for_each_chunk(in, spec, x.shape(), steps, [&](const Run& r, std::size_t from, std::span<const std::uint16_t> c) {
    const auto to = out.subspan(r.begin + from, c.size());
    spec.format->decode(c, to);
    for (std::size_t i = 0; i < to.size(); ++i) {
      const std::size_t s = r.scale + (r.each ? from + i : 0);
      to[i] = steps.scale[s] * to[i];
      if (!spec.minimum.empty()) to[i] += steps.minimum[s];
    }
  });
  return result;
}

Tensor pack_codes(const Tensor& codes, const QuantSpec& spec) {
  QTOOL_ENSURE(spec.format != nullptr && spec.format->onnx.has_value(), "only formats with an ONNX type are packed");
  const DType dtype = *spec.format->onnx;
  if (codes.dtype() == DType::i32) return codes;  // a bias
  const auto bits = static_cast<unsigned>(bit_width(dtype));
  if (bits == static_cast<unsigned>(bit_width(codes.dtype()))) return codes.viewed_as(dtype);
  if (is_absent(codes)) return absent(dtype, codes.shape());
  Tensor packed(dtype, codes.shape());
  const auto in = codes.bytes();
  const auto out = packed.write_bytes();
  const std::uint32_t mask = (1u << bits) - 1u;
  std::size_t bit = 0;
  for (std::size_t i = 0; i < in.size(); ++i, bit += bits) {
    const std::uint32_t word = (static_cast<std::uint32_t>(in[i]) & mask) << (bit % 8);
    out[bit / 8] |= static_cast<std::byte>(word & 0xffu);
    if (word > 0xffu) out[bit / 8 + 1] |= static_cast<std::byte>(word >> 8);
  }
  return packed;
}

Tensor unpack_codes(const Tensor& packed) {
  const DType dtype = packed.dtype();
  if (dtype == DType::i32) return packed;
  const auto bits = static_cast<unsigned>(bit_width(dtype));
  if (bits == 16) return packed.viewed_as(DType::u16);
  QTOOL_ENSURE(bits > 0 && bits <= 8, "packed codes are of 16 bits or fewer");
  const bool is_signed = dtype == DType::i8 || dtype == DType::i4 || dtype == DType::i2;
  Tensor codes(is_signed ? DType::i8 : DType::u8, packed.shape());
  const auto in = packed.bytes();
  const auto out = codes.write_bytes();
  const std::uint32_t mask = (1u << bits) - 1u, sign = 1u << (bits - 1);
  std::size_t bit = 0;
  for (std::size_t i = 0; i < out.size(); ++i, bit += bits) {
    std::uint32_t word = static_cast<std::uint32_t>(in[bit / 8]);
    if (bit % 8 + bits > 8) word |= static_cast<std::uint32_t>(in[bit / 8 + 1]) << 8;
    const std::uint32_t code = (word >> (bit % 8)) & mask;
    out[i] = static_cast<std::byte>(is_signed && (code & sign) != 0 ? code | ~mask : code);
  }
  return codes;
}

}  // namespace qtool

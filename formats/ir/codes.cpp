// SPDX-License-Identifier: Apache-2.0
// Codes of constants and activations: made of numbers, whole or part by part, and read back.
#include <algorithm>
#include <cmath>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/absent.h"
#include "formats/ir/nearest_runs.h"
#include "formats/ir/parts.h"
#include "formats/ir/runs.h"
#include "formats/ir/steps.h"

namespace qtool {

using runs::for_each_run;
using runs::index;
using runs::Run;

namespace {

double bias_code(float x, float scale) {
  const double r = std::nearbyint(static_cast<double>(x / scale));
  return r != r ? 0 : std::clamp(r, -2147483648.0, 2147483647.0);
}

/// Codes of any of the three types, widened piece by piece: what the tables of number formats read.
void decode_plain(const std::byte* codes, const NumberFormat& held, const NumberFormat& format, std::span<float> out) {
  constexpr std::size_t chunk = 2048;
  std::uint16_t wide[chunk];
  const auto widen = [&](const auto* in) {
    for (std::size_t from = 0; from < out.size(); from += chunk) {
      const std::size_t n = std::min(chunk, out.size() - from);
      for (std::size_t i = 0; i < n; ++i) wide[i] = static_cast<std::uint16_t>(in[from + i]);
      format.decode({wide, n}, out.subspan(from, n));
    }
  };
  switch (code_type(held)) {
    case DType::i8: widen(reinterpret_cast<const std::int8_t*>(codes)); break;
    case DType::u8: widen(reinterpret_cast<const std::uint8_t*>(codes)); break;
    default: format.decode({reinterpret_cast<const std::uint16_t*>(codes), out.size()}, out);
  }
}

/// Evenly spaced ones. Operands by value, as in encode_run().
template <class T>
void decode_integers(const T* codes, const Part& part, const Grain& grain, const Steps& steps, float* out) {
  with_widest_vectors([&]() QTOOL_INLINE {
    for_each_run(grain, part.shape, [&](const Run& r) QTOOL_INLINE {
      const T* const code = codes + r.begin;
      float* const to = out + r.begin;
      const Steps::Part s = steps.from(r.scale);
      if (r.each) {
        QTOOL_INDEPENDENT
        for (std::size_t i = 0; i < r.length; ++i) to[i] = s.scale[i] * (static_cast<float>(code[i]) - s.zero[i]);
        return;
      }
      const float scale = *s.scale, zero = *s.zero;
      QTOOL_INDEPENDENT
      for (std::size_t i = 0; i < r.length; ++i) to[i] = scale * (static_cast<float>(code[i]) - zero);
    });
  });
}

/// What the codes of a part mean. Those of 16 bits lie aligned.
void decode_part(const std::byte* codes, const Part& part, const QuantSpec& spec, std::span<float> out) {
  const Steps steps = steps_of(spec, part.scale, part.scales);
  const DType held = code_type(*spec.format);
  if (spec.format->is_integer && spec.minimum.empty() && held != DType::u16) {
    if (held == DType::i8) {
      decode_integers(reinterpret_cast<const std::int8_t*>(codes), part, spec.grain, steps, out.data());
    } else {
      decode_integers(reinterpret_cast<const std::uint8_t*>(codes), part, spec.grain, steps, out.data());
    }
    return;
  }
  decode_plain(codes, *spec.format, *spec.format, out);
  std::vector<float> other;
  if (spec.alternative != nullptr) {
    other.resize(out.size());
    decode_plain(codes, *spec.format, *spec.alternative, other);
  }
  for_each_run(spec.grain, part.shape, [&](const Run& r) {
    const Steps::Part s = steps.from(r.scale);
    for (std::size_t i = 0; i < r.length; ++i) {
      const std::size_t k = r.each ? i : 0;
      float& v = out[r.begin + i];
      const bool alternative = !other.empty() && s.scale[k] < 0;
      v = alternative ? -s.scale[k] * other[r.begin + i] : s.scale[k] * (v - s.zero[k]);
      if (!spec.minimum.empty()) v += s.minimum[k];
    }
  });
}

/// Codes of a run; `each`: element i has step i. Operands by value: stores of bytes might change whatever has an
/// address.
template <class T>
QTOOL_INLINE inline void encode_run(const float* x, std::size_t n, bool each, Steps::Part steps, T* to) {
  if (each) {
    QTOOL_INDEPENDENT
    for (std::size_t i = 0; i < n; ++i) {
      const float code =
          integer_level(x[i] - steps.minimum[i], steps.scale[i], steps.low[i], steps.high[i]) + steps.zero[i];
      to[i] = static_cast<T>(static_cast<std::int32_t>(code));
    }
    return;
  }
  const float scale = *steps.scale, zero = *steps.zero, minimum = *steps.minimum, low = *steps.low, high = *steps.high;
  QTOOL_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    to[i] = static_cast<T>(static_cast<std::int32_t>(integer_level(x[i] - minimum, scale, low, high) + zero));
  }
}

template <class T>
void encode(std::span<const float> in, const Shape& shape, const QuantSpec& spec, const Steps& steps, T* out) {
  if (spec.format->is_integer) {
    with_widest_vectors([&]() QTOOL_INLINE {
      for_each_run(spec.grain, shape, [&](const Run& r) QTOOL_INLINE {
        encode_run(in.data() + r.begin, r.length, r.each, steps.from(r.scale), out + r.begin);
      });
    });
    return;
  }
  for_each_nearest(in, spec, shape, steps,
                   [&](std::size_t at, std::size_t n, const float*, const std::uint16_t* codes) {
                     for (std::size_t i = 0; i < n; ++i) out[at + i] = static_cast<T>(codes[i]);
                   });
}

/// Nearest codes of a part, in code_type() of the format.
void encode_part(std::span<const float> in, const Part& part, const QuantSpec& spec, std::byte* out) {
  const Steps steps = steps_of(spec, part.scale, part.scales);
  switch (code_type(*spec.format)) {
    case DType::i8: return encode(in, part.shape, spec, steps, reinterpret_cast<std::int8_t*>(out));
    case DType::u8: return encode(in, part.shape, spec, steps, reinterpret_cast<std::uint8_t*>(out));
    default: encode(in, part.shape, spec, steps, reinterpret_cast<std::uint16_t*>(out));
  }
}

std::size_t code_bytes(const QuantSpec& spec) { return byte_size(code_type(*spec.format), 1); }

/// Nearest codes of the elements [begin, begin + count), bounded as Parts says.
void encode_elements(const Tensor& data, const Parts& parts, const QuantSpec& spec, std::size_t begin,
                     std::size_t count, std::byte* out) {
  FloatParts floats(data);
  parts.for_each(begin, count, [&](const Part& part) {
    encode_part(floats.at(part.begin, part.count), part, spec, out + (part.begin - begin) * code_bytes(spec));
  });
}

Tensor quantize_bias(const Tensor& x, const QuantSpec& spec) {
  check_scales(spec, x.shape());
  const Steps steps = steps_of(spec, 0, index(spec.scale.count()));
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

}  // namespace

DType code_type(const NumberFormat& format) {
  if (format.bits > 8) return DType::u16;
  return format.is_integer && format.lowest < 0 ? DType::i8 : DType::u8;
}

Tensor quantize(const Tensor& x, const QuantSpec& spec) {
  if (is_absent(x) && spec.codes.empty()) {
    return absent(spec.is_bias ? DType::i32 : code_type(*spec.format), x.shape());
  }
  if (spec.is_bias) return quantize_bias(x, spec);
  if (!spec.ranges.empty() && spec.codes.empty()) return quantize(outside_ranges(x, spec), without_ranges(spec));
  if (!spec.codes.empty()) {
    QTOOL_ENSURE(spec.codes.shape() == x.shape(), "chosen codes have the shape of their value");
    return spec.codes;
  }
  check_scales(spec, x.shape());
  Tensor codes = Tensor::unset(code_type(*spec.format), x.shape());
  encode_elements(x, Parts(spec.grain, x.shape()), spec, 0, index(x.count()), codes.write_bytes().data());
  return codes;
}

Tensor nearest_codes(const Tensor& data, const QuantSpec& spec) {
  QTOOL_ENSURE(spec.codes.empty(), "codes are made once");
  const bool by_parts = !spec.is_bias && spec.ranges.empty() && !is_absent(data) && data.count() > 0;
  if (!by_parts) return quantize(to_f32(data), spec);
  check_scales(spec, data.shape());
  const std::size_t width = code_bytes(spec);
  const Parts parts(spec.grain, data.shape());
  const auto make = [data, parts, spec, width](std::size_t from, std::span<std::byte> out) {
    encode_elements(data, parts, spec, from / width, out.size() / width, out.data());
  };
  const auto size = index(data.count()) * width;
  return Tensor(code_type(*spec.format), data.shape(), Buffer::made(size, {parts.unit() * width, make}));
}

void for_each_coded(const Tensor& data, const QuantSpec& spec, const std::function<void(const CodedPart&)>& f) {
  QTOOL_ENSURE(!spec.is_bias && spec.ranges.empty(), "codes of one kind");
  check_scales(spec, data.shape());
  const std::size_t width = code_bytes(spec);
  FloatParts floats(data);
  std::vector<std::byte> codes;
  std::vector<float> meant;
  Parts(spec.grain, data.shape()).for_each([&](const Part& part) {
    codes.resize(part.count * width);
    meant.resize(part.count);
    if (!spec.codes.empty()) spec.codes.read(part.begin * width, codes);
    const auto x = floats.at(part.begin, part.count);
    if (spec.codes.empty()) encode_part(x, part, spec, codes.data());
    decode_part(codes.data(), part, spec, meant);
    f({part.begin, x, meant, codes});
  });
}

Tensor dequantize(const Tensor& codes, const QuantSpec& spec) {
  if (is_absent(codes)) return absent(DType::f32, codes.shape());
  check_scales(spec, codes.shape());
  Tensor x = Tensor::unset(DType::f32, codes.shape());
  const auto out = x.write<float>();
  if (codes.dtype() == DType::i32) {  // a bias
    const Steps steps = steps_of(spec, 0, index(spec.scale.count()));
    const auto in = codes.read<std::int32_t>();
    for_each_run(spec.grain, codes.shape(), [&](const Run& r) {
      for (std::size_t i = 0; i < r.length; ++i) {
        out[r.begin + i] = steps.scale[r.scale + (r.each ? i : 0)] * static_cast<float>(in[r.begin + i]);
      }
    });
    return x;
  }
  QTOOL_ENSURE(codes.dtype() == code_type(*spec.format), "codes are held in the type of their format");
  const std::size_t width = code_bytes(spec);
  const std::byte* const held = codes.bytes().data();
  Parts(spec.grain, codes.shape()).for_each([&](const Part& part) {
    decode_part(held + part.begin * width, part, spec, out.subspan(part.begin, part.count));
  });
  for (const IndexRange& r : spec.ranges) {
    QTOOL_ENSURE(r.quant && !r.quant->codes.empty(), "codes of an index range are with its own spec");
    put_part(x, spec.range_axis, r.begin, dequantize(r.quant->codes, *r.quant));
  }
  return x;
}

}  // namespace qtool

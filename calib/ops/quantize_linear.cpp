// SPDX-License-Identifier: Apache-2.0
// QuantizeLinear and DequantizeLinear of both domains, DynamicQuantizeLinear. Arithmetic in float32:
// code = saturate(round_half_even(x / scale) + zero_point), x^ = (code - zero_point) * scale.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/quantized.h"
#include "formats/base/widest.h"
#include "formats/file/reader.h"

namespace qtool {

CodeRange code_range(DType dtype) {
  const int bits = bit_width(dtype);
  switch (dtype) {
    case DType::u2:
    case DType::u4:
    case DType::u8:
    case DType::u16: return {0, static_cast<float>((1 << bits) - 1)};
    case DType::i2:
    case DType::i4:
    case DType::i8:
    case DType::i16: return {-static_cast<float>(1 << (bits - 1)), static_cast<float>((1 << (bits - 1)) - 1)};
    default: op::refuse("codes of type " + std::string(name_of(dtype)) + " are not supported");
  }
}

float scalar_of(const Tensor& t, const char* what) {
  require(t.count() == 1, std::string(what) + " has " + std::to_string(t.count()) + " values where one is needed");
  return to_f32(t).read<float>()[0];
}

ScaleLayout scale_layout(const Shape& x, const Tensor& scale, std::int64_t axis, std::int64_t block) {
  const auto rank = static_cast<std::int64_t>(x.size());
  ScaleLayout l;
  l.inner = element_count(x);
  if (scale.count() == 1 && block == 0) return l;
  axis = op::axis_in(axis, rank);
  l.outer = op::extent(x, 0, axis);
  l.extent = x[at(axis)];
  l.inner = op::extent(x, axis + 1, rank);
  const std::string problem = "scales of shape " + to_string(scale.shape()) + " do not fit shape " + to_string(x) +
                              " along axis " + std::to_string(axis);
  if (block == 0) {
    require(scale.rank() == 1 && scale.count() == l.extent, problem);
    l.per_axis = true;
    return l;
  }
  require(block > 0 && scale.rank() == rank, problem);
  Shape wanted = x;
  wanted[at(axis)] = (l.extent + block - 1) / block;
  require(scale.shape() == wanted, problem);
  l.block = block;
  l.blocks = wanted[at(axis)];
  return l;
}

namespace op {
namespace {

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, for |x| < 2^22.
constexpr float round_bias = 12582912.0F;

/// Codes of a run that shares one scale: values are cut to the range of codes before they are rounded.
template <class T>
QTOOL_INLINE inline void quantize_run(const float* x, T* y, std::int64_t n, float scale, float zero, CodeRange range) {
  const float low = range.low - zero, high = range.high - zero;
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = x[i] / scale;
    const float cut = v >= low ? (v <= high ? v : high) : (v < low ? low : 0.0F);  // NaN: the code of zero
    y[i] = static_cast<T>(static_cast<std::int32_t>((cut + round_bias) - round_bias + zero));
  }
}

template <class T>
void quantize_all(Threads& threads, const ScaleLayout& l, const float* x, const float* scale, const float* zero,
                  CodeRange range, T* y) {
  for_each_run(threads, l, [&](std::int64_t begin, std::int64_t n, std::int64_t s, std::int64_t step) {
    with_widest_vectors([&]() QTOOL_INLINE {
      if (step == 0) {
        quantize_run(x + begin, y + begin, n, scale[s], zero == nullptr ? 0.0F : zero[s], range);
      } else {
        for (std::int64_t i = 0; i < n; ++i) {
          quantize_run(x + begin + i, y + begin + i, 1, scale[s + i], zero == nullptr ? 0.0F : zero[s + i], range);
        }
      }
    });
  });
}

bool is_minifloat(DType t) { return t >= DType::f8e4m3fn; }

/// From which magnitude on a minifloat without saturation overflows: half a step above the largest finite value (a tie
/// goes to the even mantissa, which is the finite one only for e4m3fn).
void overflow_to_special(const Tensor& scaled, Tensor& codes) {
  const DType t = codes.dtype();
  float limit = 0;
  std::uint8_t special = 0, sign = 0x80;
  switch (t) {
    case DType::f8e4m3fn: limit = std::nextafter(464.0F, 1e9F), special = 0x7f; break;
    case DType::f8e4m3fnuz: limit = 248, special = 0x80, sign = 0; break;
    case DType::f8e5m2: limit = 61440, special = 0x7c; break;
    case DType::f8e5m2fnuz: limit = 61440, special = 0x80, sign = 0; break;
    default: return;
  }
  const auto x = scaled.read<float>();
  const auto y = codes.write<std::uint8_t>();
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::abs(x[i]) >= limit) y[i] = static_cast<std::uint8_t>(special | (x[i] < 0 ? sign : 0));
  }
}

DType output_type(const Attrs& attrs, const Tensor& zero_point, DType otherwise) {
  if (zero_point) return zero_point.dtype();
  const std::int64_t number = attrs.get("output_dtype", std::int64_t{0});
  if (number == 0) return otherwise;
  const auto dtype = number > 0 && number < 1000 ? dtype_of_onnx(static_cast<std::int32_t>(number)) : std::nullopt;
  require(dtype.has_value(), "output_dtype has the value " + std::to_string(number));
  return *dtype;
}

Tensor quantize(Threads& threads, const ScaleLayout& l, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                DType dtype, bool saturate) {
  const float* s = scale.read<float>().data();
  const Tensor zeros = zero_point ? to_f32(zero_point) : Tensor();
  const float* z = zeros ? zeros.read<float>().data() : nullptr;
  const float* from = x.read<float>().data();
  if (is_minifloat(dtype)) {
    Tensor scaled(DType::f32, x.shape());
    float* to = scaled.write<float>().data();
    for_each_run(threads, l, [&](std::int64_t begin, std::int64_t n, std::int64_t at_scale, std::int64_t step) {
      for (std::int64_t i = 0; i < n; ++i) to[begin + i] = from[begin + i] / s[at_scale + i * step];
    });
    Tensor codes = from_f32(scaled, dtype);
    if (!saturate) overflow_to_special(scaled, codes);
    return codes;
  }
  const CodeRange range = code_range(dtype);
  if (bit_width(dtype) == 8) {
    Tensor y = Tensor::unset(dtype, x.shape());
    for_integer_type(dtype, [&](auto zero) {
      using T = decltype(zero);
      quantize_all<T>(threads, l, from, s, z, range, y.write<T>().data());
    });
    return y;
  }
  Tensor y = Tensor::unset(DType::f32, x.shape());
  quantize_all<float>(threads, l, from, s, z, range, y.write<float>().data());
  return from_f32(y, dtype);
}

void quantize_forward(const OpContext& c) {
  const Tensor &x = c.in(0), &zero_point = c.in(2);
  const Tensor scale = to_f32(c.in(1)), values = x.dtype() == DType::f32 ? x : to_f32(x);
  require(scale.count() > 0 || x.count() == 0, "a quantization has no scale");
  const ScaleLayout l = scale_layout(x.shape(), scale, c.attrs().get("axis", std::int64_t{1}),
                                     c.attrs().get("block_size", std::int64_t{0}));
  require(!zero_point || zero_point.count() == scale.count(), "scales and zero points differ in number");
  c.out(0, quantize(c.threads, l, values, scale, zero_point, output_type(c.attrs(), zero_point, DType::u8),
                    c.attrs().get("saturate", std::int64_t{1}) != 0));
}

void quantize_infer(InferContext& c) {
  Type t = c.in(0);
  t.symbols.clear();
  const Type& zero = c.in(2);
  t.known_dtype = !c.has(2) || zero.known_dtype;
  t.dtype = c.has(2) ? zero.dtype : output_type(c.attrs(), {}, DType::u8);
  c.out(0, t);
}

template <class T>
QTOOL_INLINE inline void dequantize_run(const T* x, float* y, std::int64_t n, float scale, float zero) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = (static_cast<float>(x[i]) - zero) * scale;
}

template <class T>
void dequantize_all(Threads& threads, const ScaleLayout& l, const T* x, const float* scale, const float* zero,
                    float* y) {
  for_each_run(threads, l, [&](std::int64_t begin, std::int64_t n, std::int64_t s, std::int64_t step) {
    with_widest_vectors([&]() QTOOL_INLINE {
      if (step == 0) {
        dequantize_run(x + begin, y + begin, n, scale[s], zero == nullptr ? 0.0F : zero[s]);
      } else {
        for (std::int64_t i = 0; i < n; ++i) {
          dequantize_run(x + begin + i, y + begin + i, 1, scale[s + i], zero == nullptr ? 0.0F : zero[s + i]);
        }
      }
    });
  });
}

void dequantize_forward(const OpContext& c) {
  const Tensor& x = c.in(0);
  const Tensor scale = to_f32(c.in(1)), zeros = c.has(2) ? to_f32(c.in(2)) : Tensor();
  require(scale.count() > 0 || x.count() == 0, "a quantization has no scale");
  const ScaleLayout l = scale_layout(x.shape(), scale, c.attrs().get("axis", std::int64_t{1}),
                                     c.attrs().get("block_size", std::int64_t{0}));
  require(!zeros || zeros.count() == scale.count(), "scales and zero points differ in number");
  Tensor y = Tensor::unset(DType::f32, x.shape());
  float* to = y.write<float>().data();
  const float *s = scale.read<float>().data(), *z = zeros ? zeros.read<float>().data() : nullptr;
  if (x.dtype() == DType::u8) {
    dequantize_all(c.threads, l, x.read<std::uint8_t>().data(), s, z, to);
  } else if (x.dtype() == DType::i8) {
    dequantize_all(c.threads, l, x.read<std::int8_t>().data(), s, z, to);
  } else {
    const Tensor values = to_f32(x);
    dequantize_all(c.threads, l, values.read<float>().data(), s, z, to);
  }
  const DType dtype = output_type(c.attrs(), {}, c.in(1).dtype());
  // A scale of powers of two has no type that could hold a product.
  c.out(0, from_f32(y, is_float(dtype) ? dtype : DType::f32));
}

void dequantize_infer(InferContext& c) {
  Type t = c.in(0);
  t.symbols.clear();
  t.known_dtype = c.in(1).known_dtype || c.attrs().has("output_dtype");
  t.dtype = output_type(c.attrs(), {}, c.in(1).dtype);
  if (!is_float(t.dtype)) t.dtype = DType::f32;
  c.out(0, t);
}

}  // namespace
}  // namespace op

DynamicQuantization quantize_dynamic(Threads& threads, const Tensor& x) {
  float low = 0, high = 0;  // the range always contains 0
  for (const float v : x.read<float>()) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  DynamicQuantization q;
  q.scale = (high - low) / 255.0F;
  if (q.scale == 0) q.scale = 1;
  q.zero_point = static_cast<std::uint8_t>(std::nearbyint(std::clamp(0.0F - low / q.scale, 0.0F, 255.0F)));
  q.codes = Tensor(DType::u8, x.shape());
  ScaleLayout l;
  l.inner = x.count();
  const auto zero = static_cast<float>(q.zero_point);
  op::quantize_all(threads, l, x.read<float>().data(), &q.scale, &zero, code_range(DType::u8),
                   q.codes.write<std::uint8_t>().data());
  return q;
}

namespace op {
namespace {

void dynamic_forward(const OpContext& c) {
  require(c.in(0).dtype() == DType::f32, "DynamicQuantizeLinear needs float32");
  DynamicQuantization q = quantize_dynamic(c.threads, c.in(0));
  c.out(0, std::move(q.codes));
  c.out(1, Tensor::scalar(q.scale));
  c.out(2, Tensor::scalar(q.zero_point));
}

void dynamic_infer(InferContext& c) {
  Type t = c.in(0);
  t.symbols.clear();
  t.dtype = DType::u8;
  t.known_dtype = true;
  c.out(0, t);
  c.out(1, DType::f32, {});
  c.out(2, DType::u8, {});
}

}  // namespace

constinit const OpDef QuantizeLinear{"QuantizeLinear", "", 10, quantize_infer, quantize_forward, nullptr};
constinit const OpDef DequantizeLinear{"DequantizeLinear", "", 10, dequantize_infer, dequantize_forward, nullptr};
constinit const OpDef ms_QuantizeLinear{"QuantizeLinear", "com.microsoft",  1,
                                        quantize_infer,   quantize_forward, nullptr};
constinit const OpDef ms_DequantizeLinear{"DequantizeLinear", "com.microsoft",    1,
                                          dequantize_infer,   dequantize_forward, nullptr};
constinit const OpDef DynamicQuantizeLinear{"DynamicQuantizeLinear", "", 11, dynamic_infer, dynamic_forward, nullptr};

}  // namespace op
}  // namespace qtool

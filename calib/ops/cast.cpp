// SPDX-License-Identifier: Apache-2.0
// Cast, CastLike, BitCast. Floats to integers: towards zero, saturating, NaN to 0. Integers among each other wrap.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "calib/ops/support.h"
#include "formats/file/reader.h"
#include "formats/number/e8m0.h"

namespace qtool::op {
namespace {

template <class To, class From>
QTOOL_INLINE inline To converted(From v) {
  if constexpr (std::is_same_v<To, bool>) {
    return v != From(0);
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    // The ends as powers of two are exact in every float type.
    using Limits = std::numeric_limits<To>;
    constexpr From low = static_cast<From>(Limits::lowest());
    constexpr To half = Limits::max() / 2 + 1;
    constexpr From high = static_cast<From>(half) * 2;
    const bool inside = v > low && v < high;  // NaN is not
    const To whole = static_cast<To>(inside ? v : From(0));
    return v <= low ? Limits::lowest() : v >= high ? Limits::max() : whole;
  } else {
    return static_cast<To>(v);
  }
}

/// Types with a C++ type of their own, both ways.
Tensor cast_plain(Threads& threads, const Tensor& x, DType to) {
  Tensor y(to, x.shape());
  for_any_type(x.dtype(), [&](auto from_type) {
    using From = decltype(from_type);
    for_any_type(to, [&](auto to_type) {
      using To = decltype(to_type);
      using Stored = std::conditional_t<std::is_same_v<From, bool>, std::uint8_t, From>;  // vectors know no bool
      map(threads, reinterpret_cast<const Stored*>(x.bytes().data()), y.write<To>().data(), x.count(),
          [](Stored v) QTOOL_INLINE { return converted<To>(v); });
    });
  });
  return y;
}

Tensor from_strings(const Tensor& x, DType to) {
  Tensor values(DType::f64, x.shape());
  auto out = values.write<double>();
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::string_view text = x.read_strings()[i];
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    if (text.starts_with('+')) text.remove_prefix(1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out[i]);
    if (error != std::errc() || end != text.data() + text.size())
      refuse(std::string("\"").append(text).append("\" is not a number"));
  }
  Threads alone(1);
  return is_half(to) ? from_f32(cast_plain(alone, values, DType::f32), to) : cast_plain(alone, values, to);
}

bool has_plain_type(DType t) { return t == DType::f32 || t == DType::f64 || t == DType::boolean || is_integer(t); }

/// Small integers keep the low bits of what they are made from.
Tensor low_bits(const Tensor& whole, DType to) {
  Tensor wrapped(DType::f32, whole.shape());
  const int bits = bit_width(to);
  const bool is_signed = to == DType::i4 || to == DType::i2;
  const auto in = whole.read<std::int64_t>();
  auto out = wrapped.write<float>();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto code = static_cast<int>(static_cast<std::uint64_t>(in[i]) & ((1u << bits) - 1));
    out[i] = static_cast<float>(is_signed && code >= 1 << (bits - 1) ? code - (1 << bits) : code);
  }
  return from_f32(wrapped, to);
}

/// How Cast goes to narrow floats.
struct Narrowing {
  bool saturate = true;
  std::string round_mode = "up";  // to powers of two (f8e8m0)
};

Tensor to_powers_of_two(const Tensor& x, const Narrowing& how) {
  const bool up = how.round_mode == "up", down = how.round_mode == "down";
  if (!up && !down && how.round_mode != "nearest") refuse("round_mode has the value \"" + how.round_mode + "\"");
  Tensor codes(DType::u8, x.shape());
  const auto in = x.read<float>();
  auto out = codes.write<std::uint8_t>();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float v = in[i];
    const std::uint8_t low = e8m0_down(v), high = e8m0_up(v);
    const double middle = 0.5 * (static_cast<double>(e8m0_value(low)) + static_cast<double>(e8m0_value(high)));
    out[i] = up || (!down && static_cast<double>(v) >= middle) ? high : low;
    if (!how.saturate && !(v >= 0x1p-127F && v <= 0x1p127F)) out[i] = 0xff;
  }
  return codes.viewed_as(DType::f8e8m0);
}

/// Beyond the range: with `saturate` the largest number, otherwise infinity, or NaN where there is none.
Tensor to_minifloat(const Tensor& x, DType to, const Narrowing& how) {
  struct Facts {
    float largest, beyond;  // values from `beyond` on round past the largest
    bool at_beyond;         // `beyond` itself does, being a tie towards an even code
    std::uint8_t overflow;  // code without sign
  };
  Facts f{};
  switch (to) {
    case DType::f8e4m3fn: f = {448, 464, false, 0x7F}; break;
    case DType::f8e4m3fnuz: f = {240, 248, true, 0x80}; break;
    case DType::f8e5m2: f = {57344, 61440, true, 0x7C}; break;
    case DType::f8e5m2fnuz: f = {57344, 61440, true, 0x80}; break;
    case DType::f8e8m0: return to_powers_of_two(x, how);
    default: return from_f32(x, to);
  }
  Tensor limited = x;
  for (float& v : limited.write<float>()) v = std::isnan(v) ? v : std::clamp(v, -f.largest, f.largest);
  Tensor result = from_f32(limited, to);
  if (how.saturate) return result;
  auto codes = result.write<std::uint8_t>();
  const auto in = x.read<float>();
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const float v = std::abs(in[i]);
    if (v < f.beyond || (v == f.beyond && !f.at_beyond) || std::isnan(v)) continue;
    codes[i] = static_cast<std::uint8_t>(f.overflow | (in[i] < 0 ? 0x80 : 0));
  }
  return result;
}

Tensor cast(Threads& threads, const Tensor& x, DType to, const Narrowing& how) {
  if (x.dtype() == to) return x;
  if (x.dtype() == DType::string) return from_strings(x, to);
  if (to == DType::string) refuse("numbers are not cast to strings here");
  if (has_plain_type(x.dtype()) && has_plain_type(to)) return cast_plain(threads, x, to);
  if (is_integer(to) && !is_float(x.dtype()) && bit_width(x.dtype()) < 8) {  // small integers
    const auto values = to_int64s(x);
    return cast_plain(threads, Tensor::of<std::int64_t>(x.shape(), values), to);
  }
  const Tensor middle = has_plain_type(x.dtype()) ? cast_plain(threads, x, DType::f32) : to_f32(x);
  if (has_plain_type(to)) return cast_plain(threads, middle, to);
  if (to == DType::i4 || to == DType::u4 || to == DType::i2 || to == DType::u2) {
    return low_bits(cast_plain(threads, middle, DType::i64), to);
  }
  return to_minifloat(middle, to, how);
}

DType target_of(const Attrs& attrs, const Node& node) {
  const std::int64_t number = attrs.get("to", std::int64_t{0});
  const auto dtype = dtype_of_onnx(number > 0 && number < 1000 ? static_cast<std::int32_t>(number) : 0);
  if (!dtype) refuse(node.op + " goes to a type with number " + std::to_string(number) + ", which does not exist");
  return *dtype;
}

Narrowing narrowing_of(const Attrs& attrs) {
  return {attrs.get("saturate", std::int64_t{1}) != 0, attrs.get("round_mode", "up")};
}

void forward_cast(const OpContext& ctx) {
  ctx.out(0, cast(ctx.threads, ctx.in(0), target_of(ctx.attrs(), ctx.node), narrowing_of(ctx.attrs())));
}
void forward_cast_like(const OpContext& ctx) {
  ctx.out(0, cast(ctx.threads, ctx.in(0), ctx.in(1).dtype(), narrowing_of(ctx.attrs())));
}

void forward_bit_cast(const OpContext& ctx) {
  const DType to = target_of(ctx.attrs(), ctx.node);
  if (bit_width(to) != bit_width(ctx.in(0).dtype()) || bit_width(to) == 0) refuse("the two types differ in width");
  ctx.out(0, ctx.in(0).viewed_as(to));
}

void backward_cast(BackwardContext& ctx) {
  if (ctx.outputs[0].dtype() == DType::f32) ctx.input_gradients[0] = ctx.grad(0);
}

void infer_as(InferContext& ctx, DType dtype) {
  Type t = ctx.in(0);
  t.dtype = dtype;
  t.known_dtype = true;
  ctx.out(0, std::move(t));
}
void infer_cast(InferContext& ctx) { infer_as(ctx, target_of(ctx.attrs(), ctx.node)); }
void infer_cast_like(InferContext& ctx) {
  infer_as(ctx, ctx.in(1).dtype);
  for (Type& t : ctx.outputs) t.known_dtype = ctx.in(1).known_dtype;
}

}  // namespace

constinit const OpDef Cast{"Cast", "", 7, infer_cast, forward_cast, backward_cast};
constinit const OpDef CastLike{"CastLike", "", 15, infer_cast_like, forward_cast_like, backward_cast};
constinit const OpDef BitCast{"BitCast", "", 26, infer_cast, forward_bit_cast, nullptr};

}  // namespace qtool::op

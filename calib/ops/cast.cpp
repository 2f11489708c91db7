// SPDX-License-Identifier: Apache-2.0
// Cast, CastLike, BitCast. Floats to integers: towards zero, saturating, NaN to 0. Integers among each other wrap.
#include <charconv>
#include <cmath>
#include <limits>

#include "calib/ops/support.h"
#include "formats/file/reader.h"

namespace qtool::op {
namespace {

template <class To, class From>
To converted(From v) {
  if constexpr (std::is_same_v<To, bool>) {
    return v != From(0);
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    if (std::isnan(v)) return 0;
    // The ends as powers of two are exact in every float type.
    constexpr From low = static_cast<From>(std::numeric_limits<To>::lowest());
    const From high = std::ldexp(From(1), std::numeric_limits<To>::digits);
    if (v <= low) return std::numeric_limits<To>::lowest();
    if (v >= high) return std::numeric_limits<To>::max();
    return static_cast<To>(v);
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
      map(threads, x.read<From>().data(), y.write<To>().data(), x.count(), converted<To, From>);
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
      refuse("\"" + std::string(text) + "\" is not a number");
  }
  Threads alone(1);
  return is_half(to) ? from_f32(cast_plain(alone, values, DType::f32), to) : cast_plain(alone, values, to);
}

bool has_plain_type(DType t) { return t == DType::f32 || t == DType::f64 || t == DType::boolean || is_integer(t); }

Tensor cast(Threads& threads, const Tensor& x, DType to) {
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
  const bool small_integer = to == DType::i4 || to == DType::u4 || to == DType::i2 || to == DType::u2;
  if (!small_integer) return from_f32(middle, to);
  Tensor whole = middle;
  for (float& v : whole.write<float>()) v = std::trunc(v);
  return from_f32(whole, to);
}

DType target_of(const Attrs& attrs, const Node& node) {
  if (const Attr* to = attrs.find("to"); to != nullptr && std::holds_alternative<std::string>(to->value)) {
    // Before opset 6 the type was spelled out.
    const std::string& name = std::get<std::string>(to->value);
    constexpr std::string_view names[] = {"",      "FLOAT",  "UINT8", "INT8",    "UINT16", "INT16",  "INT32",
                                          "INT64", "STRING", "BOOL",  "FLOAT16", "DOUBLE", "UINT32", "UINT64"};
    for (std::int32_t i = 1; i < static_cast<std::int32_t>(std::size(names)); ++i) {
      if (names[i] == name) return *dtype_of_onnx(i);
    }
    refuse("\"" + name + "\" is not a type");
  }
  const std::int64_t number = attrs.get("to", std::int64_t{0});
  const auto dtype = dtype_of_onnx(number > 0 && number < 1000 ? static_cast<std::int32_t>(number) : 0);
  if (!dtype) refuse(node.op + " goes to a type with number " + std::to_string(number) + ", which does not exist");
  return *dtype;
}

void forward_cast(const OpContext& ctx) { ctx.out(0, cast(ctx.threads, ctx.in(0), target_of(ctx.attrs(), ctx.node))); }
void forward_cast_like(const OpContext& ctx) { ctx.out(0, cast(ctx.threads, ctx.in(0), ctx.in(1).dtype())); }

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

constinit const OpDef Cast{"Cast", "", 1, infer_cast, forward_cast, backward_cast};
constinit const OpDef CastLike{"CastLike", "", 15, infer_cast_like, forward_cast_like, backward_cast};
constinit const OpDef BitCast{"BitCast", "", 26, infer_cast, forward_bit_cast, nullptr};

}  // namespace qtool::op

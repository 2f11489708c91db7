// SPDX-License-Identifier: Apache-2.0
// Tensors from nothing: constants, ranges, diagonals, random numbers. Random operators give the same numbers for the
// same node name and seed.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "calib/ops/support.h"
#include "formats/base/rng.h"
#include "formats/file/reader.h"

namespace qtool::op {
namespace {

Tensor constant_of(const Attrs& attrs) {
  for (const Attr& a : attrs.all) {
    if (a.name == "value") return attrs.get("value", Tensor());
    if (a.name == "value_float") return Tensor::scalar<float>(attrs.get("value_float", 0.0f));
    if (a.name == "value_int") return Tensor::scalar<std::int64_t>(attrs.get("value_int", std::int64_t{0}));
    if (a.name == "value_string") return Tensor::strings({}, {attrs.get("value_string", "")});
    if (a.name == "value_floats") {
      const auto v = attrs.get("value_floats", std::vector<float>{});
      return Tensor::of<float>({static_cast<std::int64_t>(v.size())}, v);
    }
    if (a.name == "value_ints") {
      const auto v = attrs.get("value_ints", std::vector<std::int64_t>{});
      return Tensor::of<std::int64_t>({static_cast<std::int64_t>(v.size())}, v);
    }
    if (a.name == "value_strings") {
      const auto v = attrs.get("value_strings", std::vector<std::string>{});
      return Tensor::strings({static_cast<std::int64_t>(v.size())}, v);
    }
  }
  refuse("there is no value that can be read");
}

void forward_constant(const OpContext& ctx) { ctx.out(0, constant_of(ctx.attrs())); }
void infer_constant(InferContext& ctx) {
  const Tensor t = constant_of(ctx.attrs());
  ctx.out(0, t.dtype(), t.shape());
}

Tensor fill_value(const Attrs& attrs) {
  Tensor value = attrs.get("value", Tensor::of<float>({1}, {0.0f}));
  if (value.count() != 1 || bit_width(value.dtype()) % 8 != 0 || value.dtype() == DType::string) {
    refuse("value should be one number");
  }
  return value;
}

void forward_constant_of_shape(const OpContext& ctx) {
  const Tensor value = fill_value(ctx.attrs());
  Tensor result(value.dtype(), to_int64s(ctx.in(0)));
  const auto from = value.bytes();
  if (std::any_of(from.begin(), from.end(), [](std::byte b) { return b != std::byte{0}; })) {
    const auto to = result.write_bytes();
    for (std::size_t done = 0, n = from.size(); done < to.size(); done += n) {
      n = std::min(done == 0 ? from.size() : done, to.size() - done);  // what is there already, twice as much each time
      std::memcpy(&to[done], done == 0 ? from.data() : to.data(), n);
    }
  }
  ctx.out(0, std::move(result));
}

void infer_constant_of_shape(InferContext& ctx) {
  const DType dtype = fill_value(ctx.attrs()).dtype();
  if (!ctx.constant(0).empty()) return ctx.out(0, dtype, to_int64s(ctx.constant(0)));
  const Type& shape = ctx.in(0);
  if (shape.known_rank && shape.shape.size() == 1 && shape.shape[0] >= 0 && shape.shape[0] <= 64) {
    return ctx.out(0, dtype, Shape(static_cast<std::size_t>(shape.shape[0]), -1));
  }
  ctx.out(0, dtype);
}

void forward_range(const OpContext& ctx) {
  const DType dtype = ctx.in(0).dtype();
  const Tensor start = widened(ctx.in(0)), limit = widened(ctx.in(1)), delta = widened(ctx.in(2));
  for_number_type(start.dtype(), [&](auto type) {
    using T = decltype(type);
    if (start.count() != 1 || limit.count() != 1 || delta.count() != 1)
      refuse("start, limit and delta should be one number each");
    const T a = start.read<T>()[0], b = limit.read<T>()[0], d = delta.read<T>()[0];
    if (d == 0) refuse("a range cannot go in steps of 0");
    const double n = std::ceil((static_cast<double>(b) - static_cast<double>(a)) / static_cast<double>(d));
    if (!(n < 1e15)) refuse("the range has too many elements");
    Tensor result(start.dtype(), {std::max<std::int64_t>(static_cast<std::int64_t>(n), 0)});
    std::int64_t i = 0;
    for (T& v : result.write<T>()) v = static_cast<T>(a + static_cast<T>(static_cast<T>(i++) * d));
    ctx.out(0, narrowed(std::move(result), dtype));
  });
}

void infer_range(InferContext& ctx) {
  Type t = ctx.in(0);
  t.known_rank = true;
  t.shape = {-1};
  t.symbols.clear();
  const Tensor &a = ctx.constant(0), &b = ctx.constant(1), &d = ctx.constant(2);
  if (a.count() == 1 && b.count() == 1 && d.count() == 1 && is_integer(a.dtype()) && to_int64s(d)[0] != 0) {
    const double n =
        std::ceil(static_cast<double>(to_int64s(b)[0] - to_int64s(a)[0]) / static_cast<double>(to_int64s(d)[0]));
    if (n < 1e15) t.shape = {std::max<std::int64_t>(static_cast<std::int64_t>(n), 0)};
  }
  ctx.out(0, std::move(t));
}

DType dtype_attr(const Attrs& attrs, DType otherwise) {
  if (!attrs.has("dtype")) return otherwise;
  const std::int64_t number = attrs.get("dtype", std::int64_t{0});
  const auto dtype = dtype_of_onnx(number > 0 && number < 1000 ? static_cast<std::int32_t>(number) : 0);
  if (!dtype) refuse("there is no type with number " + std::to_string(number));
  return *dtype;
}

void forward_eye_like(const OpContext& ctx) {
  const Shape& shape = ctx.in(0).shape();
  if (shape.size() != 2) refuse("the input should have two axes");
  const DType dtype = dtype_attr(ctx.attrs(), ctx.in(0).dtype());
  const std::int64_t k = ctx.attrs().get("k", std::int64_t{0});
  Tensor eye(is_half(dtype) ? DType::f32 : dtype, shape);
  for_any_type(eye.dtype(), [&](auto type) {
    using T = decltype(type);
    auto out = eye.write<T>();
    for (std::int64_t row = 0; row < shape[0]; ++row) {
      if (k > shape[1] || k < -shape[0]) break;
      if (row + k >= 0 && row + k < shape[1]) out[static_cast<std::size_t>(row * shape[1] + row + k)] = T(1);
    }
  });
  ctx.out(0, narrowed(std::move(eye), dtype));
}

void infer_like(InferContext& ctx) {
  Type t = ctx.in(0);
  const DType dtype = dtype_attr(ctx.attrs(), t.dtype);
  t.known_dtype = t.known_dtype || ctx.attrs().has("dtype");
  t.dtype = dtype;
  ctx.out(0, std::move(t));
}

void infer_random(InferContext& ctx) {
  ctx.out(0, dtype_attr(ctx.attrs(), DType::f32), ctx.attrs().get("shape", std::vector<std::int64_t>{}));
}

Rng rng_of(const Node& node) {
  const float seed = node.attrs.get("seed", 0.0f);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &seed, sizeof bits);
  return Rng(bits, node.op, node.name);
}

template <bool Normal, bool Like>
void forward_random(const OpContext& ctx) {
  const Rng rng = rng_of(ctx.node);
  const DType dtype = dtype_attr(ctx.attrs(), Like ? ctx.in(0).dtype() : DType::f32);
  Tensor t(DType::f32, Like ? ctx.in(0).shape() : ctx.attrs().get("shape", std::vector<std::int64_t>{}));
  const double a = static_cast<double>(Normal ? ctx.attrs().get("mean", 0.0f) : ctx.attrs().get("low", 0.0f));
  const double b = static_cast<double>(Normal ? ctx.attrs().get("scale", 1.0f) : ctx.attrs().get("high", 1.0f));
  std::uint64_t i = 0;
  for (float& v : t.write<float>()) {
    v = static_cast<float>(Normal ? a + b * rng.normal(i) : a + (b - a) * rng.uniform(i));
    ++i;
  }
  ctx.out(0, dtype == DType::f32 ? std::move(t) : from_f32(t, dtype));
}

void forward_bernoulli(const OpContext& ctx) {
  const Rng rng = rng_of(ctx.node);
  Tensor t = to_f32(ctx.in(0));
  std::uint64_t i = 0;
  for (float& v : t.write<float>()) v = rng.uniform(i++) < static_cast<double>(v) ? 1.0f : 0.0f;
  const DType dtype = dtype_attr(ctx.attrs(), ctx.in(0).dtype());
  ctx.out(0, dtype == DType::f32 ? std::move(t) : from_f32(t, dtype));
}

}  // namespace

constinit const OpDef Constant{"Constant", "", 7, infer_constant, forward_constant, nullptr};
constinit const OpDef ConstantOfShape{"ConstantOfShape",         "",     9, infer_constant_of_shape,
                                      forward_constant_of_shape, nullptr};
constinit const OpDef Range{"Range", "", 11, infer_range, forward_range, nullptr};
constinit const OpDef EyeLike{"EyeLike", "", 9, infer_like, forward_eye_like, nullptr};
constinit const OpDef RandomNormal{"RandomNormal", "", 7, infer_random, forward_random<true, false>, nullptr};
constinit const OpDef RandomNormalLike{"RandomNormalLike", "", 7, infer_like, forward_random<true, true>, nullptr};
constinit const OpDef RandomUniform{"RandomUniform", "", 7, infer_random, forward_random<false, false>, nullptr};
constinit const OpDef RandomUniformLike{"RandomUniformLike", "", 7, infer_like, forward_random<false, true>, nullptr};
constinit const OpDef Bernoulli{"Bernoulli", "", 15, infer_like, forward_bernoulli, nullptr};

}  // namespace qtool::op

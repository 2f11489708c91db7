// SPDX-License-Identifier: Apache-2.0
// Comparison, logic and bits; choosing (Where) and limiting (Clip).
#include <algorithm>
#include <cmath>
#include <limits>

#include "calib/ops/pairs.h"

namespace qtool::op {
namespace {

struct EqualOf {
  static bool f(auto a, auto b) { return a == b; }
};
struct LessOf {
  static bool f(auto a, auto b) { return a < b; }
};
struct LessOrEqualOf {
  static bool f(auto a, auto b) { return a <= b; }
};
struct GreaterOf {
  static bool f(auto a, auto b) { return a > b; }
};
struct GreaterOrEqualOf {
  static bool f(auto a, auto b) { return a >= b; }
};

Tensor equal_strings(Threads& threads, const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast(a.shape(), b.shape());
  Tensor y(DType::boolean, shape);
  const auto &x = a.read_strings(), &z = b.read_strings();
  combine(threads, walk_pairs(shape, a.shape(), b.shape()), x.data(), z.data(), y.write<bool>().data(),
          [](const std::string& p, const std::string& q) { return p == q; });
  return y;
}

template <class K>
void forward_compare(const OpContext& ctx) {
  require_same_type(ctx.in(0), ctx.in(1));
  if constexpr (std::is_same_v<K, EqualOf>) {
    if (ctx.in(1).dtype() == DType::string) return ctx.out(0, equal_strings(ctx.threads, ctx.in(0), ctx.in(1)));
  }
  const Tensor a = widened(ctx.in(0)), b = widened(ctx.in(1));
  const Shape shape = broadcast(a.shape(), b.shape());
  const Walk<2> walk = walk_pairs(shape, a.shape(), b.shape());
  Tensor y(DType::boolean, shape);
  for_any_type(a.dtype(), [&](auto type) {
    using T = decltype(type);
    combine(ctx.threads, walk, a.read<T>().data(), b.read<T>().data(), y.write<bool>().data(),
            [](T p, T q) { return K::f(p, q); });
  });
  ctx.out(0, std::move(y));
}

struct AndOf {
  static bool f(bool a, bool b) { return a && b; }
};
struct OrOf {
  static bool f(bool a, bool b) { return a || b; }
};
struct XorOf {
  static bool f(bool a, bool b) { return a != b; }
};

template <class K>
void forward_logic(const OpContext& ctx) {
  const Tensor &a = ctx.in(0), &b = ctx.in(1);
  if (a.dtype() != DType::boolean || b.dtype() != DType::boolean) refuse("logic takes booleans");
  ctx.out(0, combined<bool>(ctx, a, b, false, K::f));
}

struct BitwiseAndOf {
  static auto f(auto a, auto b) { return static_cast<decltype(a)>(a & b); }
};
struct BitwiseOrOf {
  static auto f(auto a, auto b) { return static_cast<decltype(a)>(a | b); }
};
struct BitwiseXorOf {
  static auto f(auto a, auto b) { return static_cast<decltype(a)>(a ^ b); }
};

template <class K>
void forward_bits(const OpContext& ctx) {
  require_same_type(ctx.in(0), ctx.in(1));
  for_integer_type(ctx.in(0).dtype(), [&](auto type) {
    using T = decltype(type);
    ctx.out(0, combined<T>(ctx, ctx.in(0), ctx.in(1), false, [](T a, T b) { return K::f(a, b); }));
  });
}

/// Shifts by less than 0 or by the width and more leave 0, or the sign when going right.
void forward_bit_shift(const OpContext& ctx) {
  const std::string direction = ctx.attrs().get("direction", "");
  if (direction != "LEFT" && direction != "RIGHT") refuse("direction should be LEFT or RIGHT");
  const bool left = direction == "LEFT";
  require_same_type(ctx.in(0), ctx.in(1));
  for_integer_type(ctx.in(0).dtype(), [&](auto type) {
    using T = decltype(type);
    constexpr int width = std::numeric_limits<std::make_unsigned_t<T>>::digits;
    ctx.out(0, combined<T>(ctx, ctx.in(0), ctx.in(1), false, [&](T a, T b) -> T {
              const bool inside = b >= T(0) && static_cast<std::uint64_t>(b) < width;
              if (left) return inside ? static_cast<T>(static_cast<std::uint64_t>(a) << b) : T(0);
              return inside ? static_cast<T>(a >> b) : (a < T(0) ? static_cast<T>(-1) : T(0));
            }));
  });
}

void forward_not(const OpContext& ctx) {
  Tensor y(DType::boolean, ctx.in(0).shape());
  map(ctx.threads, ctx.in(0).read<bool>().data(), y.write<bool>().data(), y.count(), [](bool v) { return !v; });
  ctx.out(0, std::move(y));
}

void forward_bitwise_not(const OpContext& ctx) {
  Tensor y(ctx.in(0).dtype(), ctx.in(0).shape());
  for_integer_type(y.dtype(), [&](auto type) {
    using T = decltype(type);
    map(ctx.threads, ctx.in(0).read<T>().data(), y.write<T>().data(), y.count(),
        [](T v) { return static_cast<T>(~v); });
  });
  ctx.out(0, std::move(y));
}

template <class F>
void test_each(const OpContext& ctx, F&& f) {
  const Tensor x = widened(ctx.in(0));
  Tensor y(DType::boolean, x.shape());
  for_float_type(x.dtype(), [&](auto type) {
    map(ctx.threads, x.read<decltype(type)>().data(), y.write<bool>().data(), y.count(), f);
  });
  ctx.out(0, std::move(y));
}

void forward_is_nan(const OpContext& ctx) {
  test_each(ctx, [](auto v) { return std::isnan(v); });
}

void forward_is_inf(const OpContext& ctx) {
  const bool positive = ctx.attrs().get("detect_positive", std::int64_t{1}) != 0;
  const bool negative = ctx.attrs().get("detect_negative", std::int64_t{1}) != 0;
  test_each(ctx, [=](auto v) { return std::isinf(v) && (v > 0 ? positive : negative); });
}

void infer_bool(InferContext& ctx) {
  Type t = ctx.in(0);
  t.dtype = DType::boolean;
  t.known_dtype = true;
  ctx.out(0, std::move(t));
}

/// to[i] = c[i] ? x[i] : y[i], where x and y are one element for all unless there are `many`.
template <class E>
void choose_neighbours(const bool* c, const E* x, bool many_x, const E* y, bool many_y, E* to, std::int64_t n) {
  // Bytes, and operands that are read either way: a condition around a load would keep the loop from using vectors.
  const auto* flags = reinterpret_cast<const std::uint8_t*>(c);
  with_widest_vectors([=]() QTOOL_INLINE {
    const E one_x = *x, one_y = *y;
    const auto pick = [=](std::int64_t i, const E& first, const E& second)
                          QTOOL_INLINE { return flags[i] != 0 ? first : second; };
    if (many_x && many_y) {
      fill_by(to, n, [=](std::int64_t i) QTOOL_INLINE { return pick(i, E(x[i]), E(y[i])); });
    } else if (many_x) {
      fill_by(to, n, [=](std::int64_t i) QTOOL_INLINE { return pick(i, E(x[i]), one_y); });
    } else if (many_y) {
      fill_by(to, n, [=](std::int64_t i) QTOOL_INLINE { return pick(i, one_x, E(y[i])); });
    } else {
      fill_by(to, n, [=](std::int64_t i) QTOOL_INLINE { return pick(i, one_x, one_y); });
    }
  });
}

template <class E>
void choose(const OpContext& ctx, const Shape& shape, const E* x, const E* y, E* out) {
  const Walk<3> w =
      make_walk<3>(shape, {broadcast_strides(ctx.in(0).shape(), shape), broadcast_strides(ctx.in(1).shape(), shape),
                           broadcast_strides(ctx.in(2).shape(), shape)});
  const bool* c = ctx.in(0).read<bool>().data();
  for_runs(ctx.threads, w, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
    const bool* const from_c = c + starts[0];
    const E *const from_x = x + starts[1], *const from_y = y + starts[2];
    E* const to = out + at;
    if (steps[0] == 1 && steps[1] <= 1 && steps[2] <= 1) {  // neighbours or one for all
      return choose_neighbours(from_c, from_x, steps[1] == 1, from_y, steps[2] == 1, to, n);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      to[i] = from_c[i * steps[0]] ? from_x[i * steps[1]] : from_y[i * steps[2]];
    }
  });
}

void forward_where(const OpContext& ctx) {
  const Tensor &x = ctx.in(1), &y = ctx.in(2);
  require_same_type(x, y);
  const Shape shape = broadcast(broadcast(ctx.in(0).shape(), x.shape()), y.shape());
  if (x.dtype() == DType::string) {
    std::vector<std::string> result(static_cast<std::size_t>(element_count(shape)));
    choose(ctx, shape, x.read_strings().data(), y.read_strings().data(), result.data());
    return ctx.out(0, Tensor::strings(shape, std::move(result)));
  }
  Tensor result = Tensor::unset(x.dtype(), shape);
  const auto run = [&](auto type) {
    using E = decltype(type);
    choose(ctx, shape, reinterpret_cast<const E*>(x.bytes().data()), reinterpret_cast<const E*>(y.bytes().data()),
           reinterpret_cast<E*>(result.write_bytes().data()));
  };
  switch (bit_width(x.dtype())) {
    case 8: run(std::uint8_t()); break;
    case 16: run(std::uint16_t()); break;
    case 32: run(std::uint32_t()); break;
    case 64: run(std::uint64_t()); break;
    default: refuse_type(x.dtype());
  }
  ctx.out(0, std::move(result));
}

void backward_where(BackwardContext& ctx) {
  const Shape& shape = ctx.outputs[0].shape();
  const bool* c = ctx.in(0).read<bool>().data();
  const auto g = ctx.grad(0).read<float>();
  const Walk<1> w = make_walk<1>(shape, {broadcast_strides(ctx.in(0).shape(), shape)});
  for (std::size_t side = 1; side <= 2; ++side) {
    if (!ctx.wants(side)) continue;
    Tensor full(DType::f32, shape);
    auto out = full.write<float>();
    for_runs(w, 0, w.count, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) {
        const auto o = static_cast<std::size_t>(at + i);
        if (c[starts[0] + i * steps[0]] == (side == 1)) out[o] = g[o];
      }
    });
    ctx.input_gradients[side] = sum_to(full, ctx.in(side).shape());
  }
}

void infer_where(InferContext& ctx) {
  Type t = broadcast(ctx.in(1), ctx.in(2));
  Type all = broadcast(ctx.in(0), t);
  all.dtype = t.dtype;
  all.known_dtype = t.known_dtype;
  ctx.out(0, std::move(all));
}

/// Limits from attributes (before opset 11) or scalar inputs, as T.
template <class T>
std::pair<T, T> limits(const Attrs& attrs, std::int64_t opset, const Tensor& low, const Tensor& high) {
  std::pair<T, T> result{std::numeric_limits<T>::lowest(), std::numeric_limits<T>::max()};
  if constexpr (std::is_floating_point_v<T>) {
    result = {-std::numeric_limits<T>::infinity(), std::numeric_limits<T>::infinity()};
    if (opset < 11) {
      return {static_cast<T>(attrs.get("min", std::numeric_limits<float>::lowest())),
              static_cast<T>(attrs.get("max", std::numeric_limits<float>::max()))};
    }
  }
  if (!low.empty() && low.count() != 0) result.first = widened(low).read<T>()[0];
  if (!high.empty() && high.count() != 0) result.second = widened(high).read<T>()[0];
  return result;
}

void forward_clip(const OpContext& ctx) {
  const DType dtype = ctx.in(0).dtype();
  const Tensor half = is_half(dtype) ? to_f32(ctx.in(0)) : Tensor();
  const Tensor& x = half.empty() ? ctx.in(0) : half;
  for_number_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto [low, high] = limits<T>(ctx.attrs(), ctx.opset, ctx.in(1), ctx.in(2));
    const T* in = x.read<T>().data();
    const std::int64_t n = x.count();
    Tensor y = half.empty() ? ctx.reuse(0, dtype, x.shape()) : Tensor(DType::f32, x.shape());
    // min(max(x, low), high): when low > high everything becomes high. NaN stays.
    map(ctx.threads, in, y.write<T>().data(), n, [lo = low, hi = high](T v) {
      const T raised = v < lo ? lo : v;
      return raised > hi ? hi : raised;
    });
    ctx.out(0, narrowed(std::move(y), dtype));
  });
}

void backward_clip(BackwardContext& ctx) {
  const auto [low, high] = limits<float>(ctx.attrs(), ctx.opset, ctx.in(1), ctx.in(2));
  Tensor result = ctx.grad(0);
  auto out = result.write<float>();
  const auto x = ctx.in(0).read<float>();
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (x[i] < low || x[i] > high) out[i] = 0;
  }
  ctx.input_gradients[0] = std::move(result);
}

template <class K>
constexpr OpDef compare(std::string_view name, int since = 7) {
  return {name, "", since, infer_broadcast_bool, forward_compare<K>, nullptr};
}

}  // namespace

constinit const OpDef Equal = compare<EqualOf>("Equal");
constinit const OpDef Less = compare<LessOf>("Less");
constinit const OpDef LessOrEqual = compare<LessOrEqualOf>("LessOrEqual", 12);
constinit const OpDef Greater = compare<GreaterOf>("Greater");
constinit const OpDef GreaterOrEqual = compare<GreaterOrEqualOf>("GreaterOrEqual", 12);
constinit const OpDef And{"And", "", 7, infer_broadcast_bool, forward_logic<AndOf>, nullptr};
constinit const OpDef Or{"Or", "", 7, infer_broadcast_bool, forward_logic<OrOf>, nullptr};
constinit const OpDef Xor{"Xor", "", 7, infer_broadcast_bool, forward_logic<XorOf>, nullptr};
constinit const OpDef Not{"Not", "", 7, infer_bool, forward_not, nullptr};
constinit const OpDef BitShift{"BitShift", "", 11, infer_broadcast, forward_bit_shift, nullptr};
constinit const OpDef BitwiseAnd{"BitwiseAnd", "", 18, infer_broadcast, forward_bits<BitwiseAndOf>, nullptr};
constinit const OpDef BitwiseOr{"BitwiseOr", "", 18, infer_broadcast, forward_bits<BitwiseOrOf>, nullptr};
constinit const OpDef BitwiseXor{"BitwiseXor", "", 18, infer_broadcast, forward_bits<BitwiseXorOf>, nullptr};
constinit const OpDef BitwiseNot{"BitwiseNot", "", 18, infer_same, forward_bitwise_not, nullptr};
constinit const OpDef IsNaN{"IsNaN", "", 9, infer_bool, forward_is_nan, nullptr};
constinit const OpDef IsInf{"IsInf", "", 10, infer_bool, forward_is_inf, nullptr};
constinit const OpDef Where{"Where", "", 9, infer_where, forward_where, backward_where};
constinit const OpDef Clip{"Clip", "", 7, infer_same, forward_clip, backward_clip};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// Arithmetic on two or more broadcast operands. Integers wrap, as hardware does; integer division by zero is an error.
#include <algorithm>
#include <cmath>

#include "calib/ops/pairs.h"

namespace qtool::op {

void require_same_type(const Tensor& a, const Tensor& b) {
  if (a.dtype() == b.dtype()) return;
  refuse("the operands have types " + std::string(name_of(a.dtype())) + " and " + std::string(name_of(b.dtype())) +
         ", which should be one");
}

namespace {

template <class T>
T wrapped(std::uint64_t v) {
  return static_cast<T>(v);
}
template <class T>
std::uint64_t bits(T v) {
  return static_cast<std::uint64_t>(v);
}

struct AddOf {
  template <class T>
  static T f(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return wrapped<T>(bits(a) + bits(b));
    } else {
      return a + b;
    }
  }
  static float da(float, float, float) { return 1; }
  static float db(float, float, float) { return 1; }
};

struct SubOf {
  template <class T>
  static T f(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return wrapped<T>(bits(a) - bits(b));
    } else {
      return a - b;
    }
  }
  static float da(float, float, float) { return 1; }
  static float db(float, float, float) { return -1; }
};

struct MulOf {
  template <class T>
  static T f(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return wrapped<T>(bits(a) * bits(b));
    } else {
      return a * b;
    }
  }
  static float da(float, float b, float) { return b; }
  static float db(float a, float, float) { return a; }
};

struct DivOf {
  template <class T>
  static T f(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      if (b == 0) refuse("an integer is divided by zero");
      if constexpr (std::is_signed_v<T>) {
        if (b == -1) return wrapped<T>(std::uint64_t{0} - bits(a));
      }
      return static_cast<T>(a / b);
    } else {
      return a / b;
    }
  }
  static float da(float, float b, float) { return 1 / b; }
  static float db(float, float b, float y) { return -y / b; }
};

struct PReluOf {
  template <class T>
  static T f(T x, T slope) {
    return x < 0 ? static_cast<T>(x * slope) : x;
  }
  static float da(float x, float slope, float) { return x < 0 ? slope : 1; }
  static float db(float x, float, float) { return x < 0 ? x : 0; }
};

// The lower one; NaN wins, as in numpy.
struct MinOf {
  template <class T>
  static T f(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(a) || std::isnan(b)) return a + b;
    }
    return b < a ? b : a;
  }
};
struct MaxOf {
  template <class T>
  static T f(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(a) || std::isnan(b)) return a + b;
    }
    return a < b ? b : a;
  }
};

template <class K>
Tensor apply(const OpContext& ctx, const Tensor& a, const Tensor& b, bool reusable) {
  require_same_type(a, b);
  const DType dtype = a.dtype();
  if (is_half(dtype)) {
    return narrowed(combined<float>(ctx, to_f32(a), to_f32(b), false, K::template f<float>), dtype);
  }
  Tensor result;
  for_number_type(dtype, [&](auto type) {
    using T = decltype(type);
    result = combined<T>(ctx, a, b, reusable, [](T x, T y) { return K::f(x, y); });
  });
  return result;
}

template <class K>
void forward_pair(const OpContext& ctx) {
  ctx.out(0, apply<K>(ctx, ctx.in(0), ctx.in(1), true));
}

/// g * slope(a, b, y), summed to the shape of operand `side`.
template <class F>
Tensor pair_gradient(const BackwardContext& ctx, std::size_t side, F&& slope) {
  const Tensor &a = ctx.in(0), &b = ctx.in(1), &y = ctx.outputs[0], &g = ctx.grad(0);
  Tensor full(DType::f32, y.shape());
  const auto pa = a.read<float>(), pb = b.read<float>(), py = y.read<float>(), pg = g.read<float>();
  auto out = full.write<float>();
  const Walk<2> w =
      make_walk<2>(y.shape(), {broadcast_strides(a.shape(), y.shape()), broadcast_strides(b.shape(), y.shape())});
  for_runs(ctx.threads, w, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const auto o = static_cast<std::size_t>(at + i);
      out[o] = pg[o] * slope(pa[static_cast<std::size_t>(starts[0] + i * steps[0])],
                             pb[static_cast<std::size_t>(starts[1] + i * steps[1])], py[o]);
    }
  });
  return sum_to(full, ctx.in(side).shape());
}

template <class K>
void backward_pair(BackwardContext& ctx) {
  if (ctx.wants(0)) ctx.input_gradients[0] = pair_gradient(ctx, 0, K::da);
  if (ctx.wants(1)) ctx.input_gradients[1] = pair_gradient(ctx, 1, K::db);
}

template <class T>
T integer_power(T base, T exponent) {
  if constexpr (std::is_signed_v<T>) {
    if (exponent < 0) {
      if (base == 1) return 1;
      if (base == -1) return exponent % 2 == 0 ? T(1) : T(-1);
      return 0;
    }
  }
  std::uint64_t result = 1, factor = bits(base);
  for (std::uint64_t e = bits(exponent); e > 0; e >>= 1) {
    if (e & 1) result *= factor;
    factor *= factor;
  }
  return wrapped<T>(result);
}

/// The exponent may have another type than the base; the result has that of the base.
void forward_pow(const OpContext& ctx) {
  const Tensor a = widened(ctx.in(0)), b = widened(ctx.in(1));
  const Shape shape = broadcast(a.shape(), b.shape());
  if (a.dtype() == b.dtype() && is_integer(a.dtype())) {
    for_integer_type(a.dtype(), [&](auto type) {
      using T = decltype(type);
      ctx.out(0, combined<T>(ctx, a, b, false, integer_power<T>));
    });
    return;
  }
  if (a.dtype() == DType::f32 && b.dtype() == DType::f32) {
    const auto exponent = b.read<float>();
    Tensor y;
    if (b.count() == 1 && exponent[0] == 2) {
      y = combined<float>(ctx, a, b, false, [](float x, float) { return x * x; });
    } else {
      y = combined<float>(ctx, a, b, false, [](float x, float e) { return std::pow(x, e); });
    }
    return ctx.out(0, narrowed(std::move(y), ctx.in(0).dtype()));
  }
  const auto as_double = [](const Tensor& t) {
    Tensor wide(DType::f64, t.shape());
    for_number_type(t.dtype(), [&](auto type) {
      const auto in = t.read<decltype(type)>();
      std::transform(in.begin(), in.end(), wide.write<double>().begin(), [](auto v) { return static_cast<double>(v); });
    });
    return wide;
  };
  const Tensor y =
      combined<double>(ctx, as_double(a), as_double(b), false, [](double x, double e) { return std::pow(x, e); });
  Tensor result(a.dtype(), shape);
  for_number_type(a.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto in = y.read<double>();
    std::transform(in.begin(), in.end(), result.write<T>().begin(), [](double v) { return static_cast<T>(v); });
  });
  ctx.out(0, narrowed(std::move(result), ctx.in(0).dtype()));
}

void backward_pow(BackwardContext& ctx) {
  const bool same = ctx.in(1).dtype() == DType::f32;
  if (!same) return;
  if (ctx.wants(0)) {
    ctx.input_gradients[0] = pair_gradient(ctx, 0, [](float a, float b, float) { return b * std::pow(a, b - 1); });
  }
  if (ctx.wants(1)) {
    ctx.input_gradients[1] =
        pair_gradient(ctx, 1, [](float a, float, float y) { return y == 0 ? 0 : y * std::log(a); });
  }
}

void infer_pow(InferContext& ctx) {
  Type t = broadcast(ctx.in(0), ctx.in(1));
  t.dtype = ctx.in(0).dtype;
  t.known_dtype = ctx.in(0).known_dtype;
  ctx.out(0, std::move(t));
}

void forward_mod(const OpContext& ctx) {
  const bool like_c = ctx.attrs().get("fmod", std::int64_t{0}) != 0;
  const Tensor a = widened(ctx.in(0)), b = widened(ctx.in(1));
  require_same_type(a, b);
  for_number_type(a.dtype(), [&](auto type) {
    using T = decltype(type);
    Tensor y = combined<T>(ctx, a, b, false, [&](T x, T d) -> T {
      T r;
      if constexpr (std::is_integral_v<T>) {
        if (d == 0) refuse("an integer is divided by zero");
        if constexpr (std::is_signed_v<T>) {
          if (d == -1) return 0;
        }
        r = static_cast<T>(x % d);
      } else {
        r = std::fmod(x, d);
      }
      if (!like_c && r != 0 && (r < 0) != (d < 0)) r = static_cast<T>(r + d);  // the sign of the divisor
      return r;
    });
    ctx.out(0, narrowed(std::move(y), ctx.in(0).dtype()));
  });
}

template <class K>
Tensor fold(const OpContext& ctx) {
  if (ctx.inputs.empty()) refuse("there are no operands");
  Tensor result = ctx.in(0);
  for (std::size_t i = 1; i < ctx.inputs.size(); ++i) result = apply<K>(ctx, result, ctx.in(i), false);
  return result;
}

template <class K>
void forward_many(const OpContext& ctx) {
  ctx.out(0, fold<K>(ctx));
}

/// Where several operands are the extreme, the first gets the gradient.
void backward_extreme(BackwardContext& ctx) {
  const Tensor& y = ctx.outputs[0];
  const auto py = y.read<float>(), g = ctx.grad(0).read<float>();
  std::vector<std::uint8_t> taken(py.size(), 0);
  for (std::size_t k = 0; k < ctx.inputs.size(); ++k) {
    const Tensor& x = ctx.in(k);
    const auto px = x.read<float>();
    Tensor full(DType::f32, y.shape());
    auto out = full.write<float>();
    const Walk<1> w = make_walk<1>(y.shape(), {broadcast_strides(x.shape(), y.shape())});
    for_runs(w, 0, w.count, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) {
        const auto o = static_cast<std::size_t>(at + i);
        if (taken[o] != 0 || px[static_cast<std::size_t>(starts[0] + i * steps[0])] != py[o]) continue;
        taken[o] = 1;
        out[o] = g[o];
      }
    });
    if (ctx.wants(k)) ctx.input_gradients[k] = sum_to(full, x.shape());
  }
}

void backward_sum(BackwardContext& ctx) {
  for (std::size_t k = 0; k < ctx.inputs.size(); ++k) {
    if (ctx.wants(k)) ctx.input_gradients[k] = sum_to(ctx.grad(0), ctx.in(k).shape());
  }
}

void forward_mean(const OpContext& ctx) {
  const DType dtype = ctx.in(0).dtype();
  Tensor y = widened(fold<AddOf>(ctx));
  for_float_type(y.dtype(), [&](auto type) {
    using T = decltype(type);
    const T n = static_cast<T>(ctx.inputs.size());
    for (T& v : y.write<T>()) v /= n;
  });
  ctx.out(0, narrowed(std::move(y), dtype));
}

void backward_mean(BackwardContext& ctx) {
  backward_sum(ctx);
  const auto n = static_cast<float>(ctx.inputs.size());
  for (Tensor& gradient : ctx.input_gradients) {
    if (gradient.empty()) continue;
    for (float& v : gradient.write<float>()) v /= n;
  }
}

template <class K>
constexpr OpDef pair(std::string_view name) {
  return {name, "", 7, infer_broadcast, forward_pair<K>, backward_pair<K>};
}

}  // namespace

constinit const OpDef Add = pair<AddOf>("Add");
constinit const OpDef Sub = pair<SubOf>("Sub");
constinit const OpDef Mul = pair<MulOf>("Mul");
constinit const OpDef Div = pair<DivOf>("Div");
constinit const OpDef Pow{"Pow", "", 7, infer_pow, forward_pow, backward_pow};
constinit const OpDef Mod{"Mod", "", 10, infer_broadcast, forward_mod, nullptr};
constinit const OpDef PRelu{"PRelu", "", 7, infer_same, forward_pair<PReluOf>, backward_pair<PReluOf>};
constinit const OpDef Min{"Min", "", 7, infer_broadcast, forward_many<MinOf>, backward_extreme};
constinit const OpDef Max{"Max", "", 7, infer_broadcast, forward_many<MaxOf>, backward_extreme};
constinit const OpDef Sum{"Sum", "", 7, infer_broadcast, forward_many<AddOf>, backward_sum};
constinit const OpDef Mean{"Mean", "", 7, infer_broadcast, forward_mean, backward_mean};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// Element by element, one operand: mathematical functions and activations. A kernel K is made from the attributes,
// computes f(x), and where gradients flow df(x, y) = dy/dx.
#include <cmath>
#include <limits>
#include <numbers>

#include "calib/ops/support.h"
#include "calib/ops/vector_math.h"

namespace qtool::op {
namespace {

enum class Types : std::uint8_t { floats, signed_numbers, numbers };

struct Plain {
  explicit Plain(const Attrs&) {}
  static constexpr Types types = Types::floats;
};

template <class K>
void forward_unary(const OpContext& ctx) {
  const K kernel(ctx.attrs());
  const DType dtype = ctx.in(0).dtype();
  const Tensor half = is_half(dtype) ? to_f32(ctx.in(0)) : Tensor();
  const Tensor& x = half.empty() ? ctx.in(0) : half;
  const auto run = [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_floating_point_v<T> || K::types == Types::numbers ||
                  (K::types == Types::signed_numbers && std::is_signed_v<T>)) {
      const auto in = x.read<T>();
      const std::int64_t n = x.count();
      Tensor y = half.empty() ? ctx.reuse(0, x.dtype(), x.shape()) : Tensor(DType::f32, x.shape());
      map(ctx.threads, in.data(), y.write<T>().data(), n, [kernel](T v) { return kernel.f(v); });
      ctx.out(0, narrowed(std::move(y), dtype));
    } else {
      refuse_type(dtype);
    }
  };
  if constexpr (K::types == Types::floats) {
    for_float_type(x.dtype(), run);
  } else {
    for_number_type(x.dtype(), run);
  }
}

template <class K>
void backward_unary(BackwardContext& ctx) {
  const K kernel(ctx.attrs());
  Tensor result(DType::f32, ctx.in(0).shape());
  const auto x = ctx.in(0).read<float>(), y = ctx.outputs[0].read<float>(), g = ctx.grad(0).read<float>();
  auto out = result.write<float>();
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = g[i] * kernel.df(x[i], y[i]);
  ctx.input_gradients[0] = std::move(result);
}

template <class K>
constexpr OpDef unary(std::string_view name, int since = 7) {
  if constexpr (requires(const K k) { k.df(0.0f, 0.0f); }) {
    return {name, "", since, infer_same, forward_unary<K>, backward_unary<K>};
  } else {
    return {name, "", since, infer_same, forward_unary<K>, nullptr};
  }
}

// A function without attributes, with its derivative in terms of x and y; or one whose derivative is zero or unused.
#define QTOOL_FUNCTION(Name, value, slope)                                               \
  struct Name##Of : Plain {                                                              \
    using Plain::Plain;                                                                  \
    template <class T>                                                                   \
    T f(T x) const {                                                                     \
      return static_cast<T>(value);                                                      \
    }                                                                                    \
    float df([[maybe_unused]] float x, [[maybe_unused]] float y) const { return slope; } \
  }
#define QTOOL_STEPS(Name, value, accepted)   \
  struct Name##Of : Plain {                  \
    using Plain::Plain;                      \
    static constexpr Types types = accepted; \
    template <class T>                       \
    T f(T x) const {                         \
      return static_cast<T>(value);          \
    }                                        \
  }

// float32, by far the most used, takes the functions that compile to vector instructions.
template <class T>
T exponential(T x) {
  if constexpr (std::is_same_v<T, float>) return vector_math::exp(x);
  return std::exp(x);
}
template <class T>
T hyperbolic_tangent(T x) {
  if constexpr (std::is_same_v<T, float>) return vector_math::tanh(x);
  return std::tanh(x);
}
template <class T>
T logistic(T x) {  // never overflows
  if constexpr (std::is_same_v<T, float>) return vector_math::logistic(x);
  if (x >= 0) return 1 / (1 + std::exp(-x));
  const T e = std::exp(x);
  return e / (1 + e);
}
template <class T>
T softplus(T x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

QTOOL_FUNCTION(Sqrt, std::sqrt(x), 0.5f / y);
QTOOL_FUNCTION(Exp, exponential(x), y);
QTOOL_FUNCTION(Log, std::log(x), 1 / x);
QTOOL_FUNCTION(Reciprocal, T(1) / x, -y* y);
QTOOL_FUNCTION(Sin, std::sin(x), std::cos(x));
QTOOL_FUNCTION(Cos, std::cos(x), -std::sin(x));
QTOOL_FUNCTION(Tan, std::tan(x), 1 + y * y);
QTOOL_FUNCTION(Asin, std::asin(x), 1 / std::sqrt(1 - x * x));
QTOOL_FUNCTION(Acos, std::acos(x), -1 / std::sqrt(1 - x * x));
QTOOL_FUNCTION(Atan, std::atan(x), 1 / (1 + x * x));
QTOOL_FUNCTION(Sinh, std::sinh(x), std::cosh(x));
QTOOL_FUNCTION(Cosh, std::cosh(x), std::sinh(x));
QTOOL_FUNCTION(Tanh, hyperbolic_tangent(x), 1 - y * y);
QTOOL_FUNCTION(Asinh, std::asinh(x), 1 / std::sqrt(x * x + 1));
QTOOL_FUNCTION(Acosh, std::acosh(x), 1 / std::sqrt(x * x - 1));
QTOOL_FUNCTION(Atanh, std::atanh(x), 1 / (1 - x * x));
QTOOL_FUNCTION(Erf, std::erf(x), 2 * std::numbers::inv_sqrtpi_v<float> * std::exp(-x * x));
QTOOL_FUNCTION(Sigmoid, logistic(x), y*(1 - y));
QTOOL_FUNCTION(Softplus, softplus(x), logistic(x));
QTOOL_FUNCTION(Softsign, x / (1 + std::abs(x)), 1 / ((1 + std::abs(x)) * (1 + std::abs(x))));
QTOOL_FUNCTION(Mish, x* std::tanh(softplus(x)),
               std::tanh(softplus(x)) + x * (1 - std::tanh(softplus(x)) * std::tanh(softplus(x))) * logistic(x));
QTOOL_STEPS(Ceil, std::ceil(x), Types::floats);
QTOOL_STEPS(Floor, std::floor(x), Types::floats);
QTOOL_STEPS(Round, std::nearbyint(x), Types::floats);  // ties to even
QTOOL_STEPS(Sign, x > 0 ? 1 : (x < 0 ? -1 : (x == 0 ? T(0) : x)), Types::numbers);
#undef QTOOL_FUNCTION
#undef QTOOL_STEPS

struct AbsOf : Plain {
  using Plain::Plain;
  static constexpr Types types = Types::numbers;
  template <class T>
  T f(T x) const {
    if constexpr (std::is_floating_point_v<T>) {
      return std::abs(x);
    } else {  // the lowest integer stays as it is, without undefined overflow
      return x < 0 ? static_cast<T>(std::make_unsigned_t<T>(0) - static_cast<std::make_unsigned_t<T>>(x)) : x;
    }
  }
  float df(float x, float) const { return x > 0 ? 1.0f : (x < 0 ? -1.0f : 0.0f); }
};

struct NegOf : Plain {
  using Plain::Plain;
  static constexpr Types types = Types::signed_numbers;
  template <class T>
  T f(T x) const {
    if constexpr (std::is_floating_point_v<T>)
      return -x;
    else
      return static_cast<T>(std::make_unsigned_t<T>(0) - static_cast<std::make_unsigned_t<T>>(x));
  }
  float df(float, float) const { return -1; }
};

struct ReluOf : Plain {
  using Plain::Plain;
  static constexpr Types types = Types::signed_numbers;
  template <class T>
  T f(T x) const {
    return x < 0 ? T(0) : x;  // NaN stays
  }
  float df(float x, float) const { return x > 0 ? 1.0f : 0.0f; }
};

struct LeakyReluOf : Plain {
  explicit LeakyReluOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 0.01f)) {}
  template <class T>
  T f(T x) const {
    return x < 0 ? static_cast<T>(alpha) * x : x;
  }
  float df(float x, float) const { return x < 0 ? alpha : 1.0f; }
  float alpha;
};

struct EluOf : Plain {
  explicit EluOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 1.0f)) {}
  template <class T>
  T f(T x) const {
    return x < 0 ? static_cast<T>(alpha) * std::expm1(x) : x;
  }
  float df(float x, float y) const { return x < 0 ? y + alpha : 1.0f; }
  float alpha;
};

struct SeluOf : Plain {
  explicit SeluOf(const Attrs& a)
      : Plain(a),
        alpha(a.get("alpha", 1.67326319217681884765625f)),
        gamma(a.get("gamma", 1.05070102214813232421875f)) {}
  template <class T>
  T f(T x) const {
    return static_cast<T>(gamma) * (x > 0 ? x : static_cast<T>(alpha) * std::expm1(x));
  }
  float df(float x, float y) const { return x > 0 ? gamma : y + gamma * alpha; }
  float alpha, gamma;
};

struct CeluOf : Plain {
  explicit CeluOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 1.0f)) {}
  template <class T>
  T f(T x) const {
    return x > 0 ? x : static_cast<T>(alpha) * std::expm1(x / static_cast<T>(alpha));
  }
  float df(float x, float) const { return x > 0 ? 1.0f : std::exp(x / alpha); }
  float alpha;
};

struct ThresholdedReluOf : Plain {
  explicit ThresholdedReluOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 1.0f)) {}
  template <class T>
  T f(T x) const {
    return x > static_cast<T>(alpha) ? x : T(0);
  }
  float df(float x, float) const { return x > alpha ? 1.0f : 0.0f; }
  float alpha;
};

struct HardSigmoidOf : Plain {
  explicit HardSigmoidOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 0.2f)), beta(a.get("beta", 0.5f)) {}
  template <class T>
  T f(T x) const {
    return std::max(T(0), std::min(T(1), static_cast<T>(alpha) * x + static_cast<T>(beta)));
  }
  float df(float, float y) const { return y > 0 && y < 1 ? alpha : 0.0f; }
  float alpha, beta;
};

struct HardSwishOf : Plain {
  using Plain::Plain;
  template <class T>
  T f(T x) const {
    return x * std::max(T(0), std::min(T(1), x / 6 + T(0.5)));
  }
  float df(float x, float) const { return x <= -3 ? 0.0f : (x >= 3 ? 1.0f : x / 3 + 0.5f); }
};

struct SwishOf : Plain {
  explicit SwishOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 1.0f)) {}
  template <class T>
  T f(T x) const {
    return x * logistic(static_cast<T>(alpha) * x);
  }
  float df(float x, float) const {
    const float s = logistic(alpha * x);
    return s + alpha * x * s * (1 - s);
  }
  float alpha;
};

struct GeluOf : Plain {
  explicit GeluOf(const Attrs& a) : Plain(a), tanh_form(a.get("approximate", "none") == "tanh") {}
  template <class T>
  T f(T x) const {
    if (tanh_form) return x / 2 * (1 + hyperbolic_tangent(T(slope) * (x + T(cubic) * x * x * x)));
    return x / 2 * (1 + std::erf(x / std::numbers::sqrt2_v<T>));
  }
  float df(float x, float) const {
    if (!tanh_form) {
      return 0.5f * (1 + std::erf(x / std::numbers::sqrt2_v<float>)) + x * 0.3989422804f * std::exp(-x * x / 2);
    }
    const float t = std::tanh(static_cast<float>(slope) * (x + static_cast<float>(cubic) * x * x * x));
    return 0.5f * (1 + t) +
           0.5f * x * (1 - t * t) * static_cast<float>(slope) * (1 + 3 * static_cast<float>(cubic) * x * x);
  }
  static constexpr double slope = 0.7978845608028654, cubic = 0.044715;  // sqrt(2 / pi), Hendrycks and Gimpel, 2016
  bool tanh_form;
};

struct ShrinkOf : Plain {
  explicit ShrinkOf(const Attrs& a) : Plain(a), bias(a.get("bias", 0.0f)), lambd(a.get("lambd", 0.5f)) {}
  static constexpr Types types = Types::numbers;
  template <class T>
  T f(T x) const {
    const double v = static_cast<double>(x);
    if (v < -lambd) return static_cast<T>(v + bias);
    return v > lambd ? static_cast<T>(v - bias) : T(0);
  }
  float df(float x, float) const { return x < -lambd || x > lambd ? 1.0f : 0.0f; }
  float bias, lambd;
};

struct AffineOf : Plain {  // caffe2: alpha * x + beta
  explicit AffineOf(const Attrs& a) : Plain(a), alpha(a.get("alpha", 1.0f)), beta(a.get("beta", 0.0f)) {}
  template <class T>
  T f(T x) const {
    return static_cast<T>(alpha) * x + static_cast<T>(beta);
  }
  float df(float, float) const { return alpha; }
  float alpha, beta;
};

}  // namespace

constinit const OpDef Abs = unary<AbsOf>("Abs");
constinit const OpDef Acos = unary<AcosOf>("Acos", 7);
constinit const OpDef Acosh = unary<AcoshOf>("Acosh", 9);
constinit const OpDef Affine = unary<AffineOf>("Affine");
constinit const OpDef Asin = unary<AsinOf>("Asin", 7);
constinit const OpDef Asinh = unary<AsinhOf>("Asinh", 9);
constinit const OpDef Atan = unary<AtanOf>("Atan", 7);
constinit const OpDef Atanh = unary<AtanhOf>("Atanh", 9);
constinit const OpDef Ceil = unary<CeilOf>("Ceil");
constinit const OpDef Celu = unary<CeluOf>("Celu", 12);
constinit const OpDef Cos = unary<CosOf>("Cos", 7);
constinit const OpDef Cosh = unary<CoshOf>("Cosh", 9);
constinit const OpDef Elu = unary<EluOf>("Elu");
constinit const OpDef Erf = unary<ErfOf>("Erf", 9);
constinit const OpDef Exp = unary<ExpOf>("Exp");
constinit const OpDef Floor = unary<FloorOf>("Floor");
constinit const OpDef Gelu = unary<GeluOf>("Gelu", 20);
constinit const OpDef HardSigmoid = unary<HardSigmoidOf>("HardSigmoid");
constinit const OpDef HardSwish = unary<HardSwishOf>("HardSwish", 14);
constinit const OpDef LeakyRelu = unary<LeakyReluOf>("LeakyRelu");
constinit const OpDef Log = unary<LogOf>("Log");
constinit const OpDef Mish = unary<MishOf>("Mish", 18);
constinit const OpDef Neg = unary<NegOf>("Neg");
constinit const OpDef Reciprocal = unary<ReciprocalOf>("Reciprocal");
constinit const OpDef Relu = unary<ReluOf>("Relu");
constinit const OpDef Round = unary<RoundOf>("Round", 11);
constinit const OpDef Selu = unary<SeluOf>("Selu");
constinit const OpDef Shrink = unary<ShrinkOf>("Shrink", 9);
constinit const OpDef Sigmoid = unary<SigmoidOf>("Sigmoid");
constinit const OpDef Sign = unary<SignOf>("Sign", 9);
constinit const OpDef Sin = unary<SinOf>("Sin", 7);
constinit const OpDef Sinh = unary<SinhOf>("Sinh", 9);
constinit const OpDef Softplus = unary<SoftplusOf>("Softplus");
constinit const OpDef Softsign = unary<SoftsignOf>("Softsign");
constinit const OpDef Sqrt = unary<SqrtOf>("Sqrt");
constinit const OpDef Swish = unary<SwishOf>("Swish", 24);
constinit const OpDef Tan = unary<TanOf>("Tan", 7);
constinit const OpDef Tanh = unary<TanhOf>("Tanh");
constinit const OpDef ThresholdedRelu = unary<ThresholdedReluOf>("ThresholdedRelu", 10);

}  // namespace qtool::op

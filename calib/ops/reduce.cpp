// SPDX-License-Identifier: Apache-2.0
// Reductions over axes. Every output element is reduced by one thread in the order of the input: float sums in
// eight double accumulators, integers exactly.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

/// Which axes go, and what the result looks like.
struct Reduction {
  std::vector<std::int64_t> axes;  // sorted; empty: nothing is reduced
  bool keep = true;
};

/// `axes_open`: axes come from an input whose value is not known.
template <class Context>
Reduction reduction_of(const Context& ctx, std::int64_t rank, const Tensor& axes_input) {
  Reduction r;
  r.keep = ctx.attrs().get("keepdims", std::int64_t{1}) != 0;
  std::vector<std::int64_t> axes;
  if (!axes_input.empty()) {
    axes = to_int64s(axes_input);
  } else {
    axes = ctx.attrs().get("axes", axes);
  }
  if (axes.empty() && ctx.attrs().get("noop_with_empty_axes", std::int64_t{0}) == 0) {
    for (std::int64_t d = 0; d < rank; ++d) axes.push_back(d);
  }
  r.axes = axes_in(axes, rank);
  return r;
}

bool contains(const std::vector<std::int64_t>& axes, std::size_t d) {
  return std::binary_search(axes.begin(), axes.end(), static_cast<std::int64_t>(d));
}

Shape kept_shape(const Shape& from, const Reduction& r) {  // reduced axes have extent 1
  Shape shape = from;
  for (const std::int64_t axis : r.axes) shape[at(axis)] = 1;
  return shape;
}

Shape result_shape(const Shape& from, const Reduction& r) {
  if (r.keep) return kept_shape(from, r);
  Shape shape;
  for (std::size_t d = 0; d < from.size(); ++d) {
    if (!contains(r.axes, d)) shape.push_back(from[d]);
  }
  return shape;
}

/// The input with the reduced axes last: one row per output element.
Tensor rows_last(Threads& threads, const Tensor& x, const Reduction& r) {
  const auto dense = strides_of(x.shape());
  Shape shape;
  std::vector<std::int64_t> strides;
  for (const bool reduced : {false, true}) {
    for (std::size_t d = 0; d < x.shape().size(); ++d) {
      if (contains(r.axes, d) != reduced) continue;
      shape.push_back(x.shape()[d]);
      strides.push_back(dense[d]);
    }
  }
  // Already in place when the reduced axes are the last ones.
  bool trailing = true;
  for (std::size_t i = 0; i < r.axes.size(); ++i) {
    trailing = trailing && at(r.axes[i]) == x.shape().size() - r.axes.size() + i;
  }
  return trailing ? x : gather_strided(threads, x, shape, strides);
}

// Reducers: one row of n elements to one value.
struct SumOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    return static_cast<T>(row_sum(x, n));
  }
};
struct MeanOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    if constexpr (std::is_integral_v<T>) {
      if (n == 0) refuse("the mean of no integers");
      return static_cast<T>(row_sum(x, n) / static_cast<wide<T>>(n));
    } else {
      return static_cast<T>(row_sum(x, n) / static_cast<double>(n));
    }
  }
};
struct SumSquareOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    return static_cast<T>(row_sum(x, n, [](auto v) { return v * v; }));
  }
};
struct L1Of {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    return static_cast<T>(row_sum(x, n, [](auto v) { return v < 0 ? decltype(v)(0) - v : v; }));
  }
};
struct L2Of {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    return static_cast<T>(std::sqrt(static_cast<double>(row_sum(x, n, [](auto v) { return v * v; }))));
  }
};
struct LogSumOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    return static_cast<T>(std::log(static_cast<double>(row_sum(x, n))));
  }
};
struct LogSumExpOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    double top = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int64_t i = 0; i < n; ++i) top = std::max(top, static_cast<double>(x[i]));
    if (!std::isfinite(top)) return static_cast<T>(top);
    for (std::int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - top);
    return static_cast<T>(top + std::log(sum));
  }
};
struct ProdOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    wide<T> product = 1;
    for (std::int64_t i = 0; i < n; ++i) product *= static_cast<wide<T>>(x[i]);
    return static_cast<T>(product);
  }
};
struct MaxOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    T top =
        std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
    for (std::int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(x[i])) return x[i];
      }
      top = x[i] > top ? x[i] : top;
    }
    return top;
  }
};
struct MinOf {
  template <class T>
  static T f(const T* x, std::int64_t n) {
    T low = std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
    for (std::int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(x[i])) return x[i];
      }
      low = x[i] < low ? x[i] : low;
    }
    return low;
  }
};

template <class K>
void forward_reduce(const OpContext& ctx) {
  const Tensor& given = ctx.in(0);
  const Reduction r = reduction_of(ctx, given.rank(), ctx.in(1));
  const Shape shape = result_shape(given.shape(), r);
  const Tensor x =
      rows_last(ctx.threads, given.dtype() == DType::boolean ? given.viewed_as(DType::u8) : widened(given), r);
  std::int64_t n = 1;
  for (const std::int64_t axis : r.axes) n *= given.shape()[at(axis)];
  Tensor y(x.dtype(), shape);
  for_number_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* in = x.read<T>().data();
    T* out = y.write<T>().data();
    for_rows(ctx.threads, y.count(), n, [&](std::int64_t row) { out[row] = K::f(in + row * n, n); });
  });
  if (given.dtype() == DType::boolean) y = y.viewed_as(DType::boolean);
  ctx.out(0, narrowed(std::move(y), given.dtype()));
}

/// Calls f(position in x, position in y) for every element of x.
template <class F>
void for_reduced(const Shape& x, const Shape& kept, F&& f) {
  const Walk<1> w = make_walk<1>(x, {broadcast_strides(kept, x)});
  for_runs(w, 0, w.count, [&](std::int64_t position, const auto& starts, const auto& steps, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) f(at(position + i), at(starts[0] + i * steps[0]));
  });
}

/// dx = slope(g, x, y, n), where g and y belong to the row of x.
template <class F>
void backward_rows(BackwardContext& ctx, F&& slope) {
  const Tensor& x = ctx.in(0);
  const Reduction r = reduction_of(ctx, x.rank(), ctx.in(1));
  Tensor result(DType::f32, x.shape());
  const auto px = x.read<float>(), py = ctx.outputs[0].read<float>(), g = ctx.grad(0).read<float>();
  auto out = result.write<float>();
  const std::size_t reduced = py.empty() ? 1 : px.size() / py.size();
  const auto n = static_cast<float>(reduced);
  for_reduced(x.shape(), kept_shape(x.shape(), r),
              [&](std::size_t i, std::size_t o) { out[i] = slope(g[o], px[i], py[o], n); });
  ctx.input_gradients[0] = std::move(result);
}

void backward_sum(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float, float, float) { return g; });
}
void backward_mean(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float, float, float n) { return g / n; });
}
void backward_sum_square(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float x, float, float) { return 2 * g * x; });
}
void backward_l1(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float x, float, float) { return x > 0 ? g : (x < 0 ? -g : 0.0f); });
}
void backward_l2(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float x, float y, float) { return y == 0 ? 0.0f : g * x / y; });
}
void backward_log_sum(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float, float y, float) { return g / std::exp(y); });
}
void backward_log_sum_exp(BackwardContext& ctx) {
  backward_rows(ctx, [](float g, float x, float y, float) { return g * std::exp(x - y); });
}

/// Elements that share the extreme share its gradient.
void backward_extreme(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Shape kept = kept_shape(x.shape(), reduction_of(ctx, x.rank(), ctx.in(1)));
  const auto px = x.read<float>(), py = ctx.outputs[0].read<float>(), g = ctx.grad(0).read<float>();
  std::vector<float> sharers(py.size(), 0);
  for_reduced(x.shape(), kept, [&](std::size_t i, std::size_t o) { sharers[o] += px[i] == py[o] ? 1.0f : 0.0f; });
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  for_reduced(x.shape(), kept, [&](std::size_t i, std::size_t o) { out[i] = px[i] == py[o] ? g[o] / sharers[o] : 0; });
  ctx.input_gradients[0] = std::move(result);
}

/// The product of the others, also where some are zero.
void backward_prod(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Shape kept = kept_shape(x.shape(), reduction_of(ctx, x.rank(), ctx.in(1)));
  const auto px = x.read<float>(), g = ctx.grad(0).read<float>();
  std::vector<double> product(g.size(), 1);
  std::vector<int> zeros(g.size(), 0);
  for_reduced(x.shape(), kept, [&](std::size_t i, std::size_t o) {
    if (px[i] == 0) {
      ++zeros[o];
    } else {
      product[o] *= static_cast<double>(px[i]);
    }
  });
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  for_reduced(x.shape(), kept, [&](std::size_t i, std::size_t o) {
    const int other_zeros = zeros[o] - (px[i] == 0 ? 1 : 0);
    if (other_zeros > 0) return;
    out[i] = g[o] * static_cast<float>(px[i] == 0 ? product[o] : product[o] / static_cast<double>(px[i]));
  });
  ctx.input_gradients[0] = std::move(result);
}

void infer_reduce(InferContext& ctx) {
  Type t = ctx.in(0);
  const bool open = ctx.has(1) && ctx.constant(1).empty();
  if (t.known_rank && !open) {
    const Reduction r = reduction_of(ctx, static_cast<std::int64_t>(t.shape.size()), ctx.constant(1));
    t.symbols.resize(t.shape.size());
    std::vector<std::string> symbols;
    for (std::size_t d = 0; d < t.shape.size(); ++d) {
      if (!contains(r.axes, d))
        symbols.push_back(t.symbols[d]);
      else if (r.keep)
        symbols.emplace_back();
    }
    t.shape = result_shape(t.shape, r);
    t.symbols = std::move(symbols);
  } else {
    t.symbols.clear();
    if (t.known_rank && ctx.attrs().get("keepdims", std::int64_t{1}) != 0) {
      t.shape.assign(t.shape.size(), -1);
    } else {
      t.known_rank = false;
      t.shape.clear();
    }
  }
  ctx.out(0, std::move(t));
}

template <bool Largest>
void forward_arg(const OpContext& ctx) {
  const Tensor x = widened(ctx.in(0));
  Reduction r;
  r.axes = {axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank())};
  r.keep = ctx.attrs().get("keepdims", std::int64_t{1}) != 0;
  const bool last = ctx.attrs().get("select_last_index", std::int64_t{0}) != 0;
  const std::int64_t n = x.shape()[at(r.axes[0])];
  const Tensor rows = rows_last(ctx.threads, x, r);
  Tensor y(DType::i64, result_shape(x.shape(), r));
  if (n == 0 && y.count() > 0) refuse("there is no extreme along an empty axis");
  for_number_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* in = rows.read<T>().data();
    std::int64_t* out = y.write<std::int64_t>().data();
    for_rows(ctx.threads, y.count(), n, [&](std::int64_t row) {
      const T* v = in + row * n;
      std::int64_t best = 0;
      for (std::int64_t i = 1; i < n; ++i) {
        const bool better = Largest ? v[i] > v[best] : v[i] < v[best];
        if (better || (last && v[i] == v[best])) best = i;
      }
      out[row] = best;
    });
  });
  ctx.out(0, std::move(y));
}

void infer_arg(InferContext& ctx) {
  Type t = ctx.in(0);
  t.dtype = DType::i64;
  t.known_dtype = true;
  t.symbols.clear();
  if (t.known_rank) {
    Reduction r;
    r.axes = {axis_in(ctx.attrs().get("axis", std::int64_t{0}), static_cast<std::int64_t>(t.shape.size()))};
    r.keep = ctx.attrs().get("keepdims", std::int64_t{1}) != 0;
    t.shape = result_shape(t.shape, r);
  }
  ctx.out(0, std::move(t));
}

template <class K>
constexpr OpDef reduce(std::string_view name, void (*backward)(BackwardContext&)) {
  return {name, "", 7, infer_reduce, forward_reduce<K>, backward};
}

}  // namespace

constinit const OpDef ReduceSum = reduce<SumOf>("ReduceSum", backward_sum);
constinit const OpDef ReduceMean = reduce<MeanOf>("ReduceMean", backward_mean);
constinit const OpDef ReduceSumSquare = reduce<SumSquareOf>("ReduceSumSquare", backward_sum_square);
constinit const OpDef ReduceL1 = reduce<L1Of>("ReduceL1", backward_l1);
constinit const OpDef ReduceL2 = reduce<L2Of>("ReduceL2", backward_l2);
constinit const OpDef ReduceLogSum = reduce<LogSumOf>("ReduceLogSum", backward_log_sum);
constinit const OpDef ReduceLogSumExp = reduce<LogSumExpOf>("ReduceLogSumExp", backward_log_sum_exp);
constinit const OpDef ReduceProd = reduce<ProdOf>("ReduceProd", backward_prod);
constinit const OpDef ReduceMax = reduce<MaxOf>("ReduceMax", backward_extreme);
constinit const OpDef ReduceMin = reduce<MinOf>("ReduceMin", backward_extreme);
constinit const OpDef ArgMax{"ArgMax", "", 7, infer_arg, forward_arg<true>, nullptr};
constinit const OpDef ArgMin{"ArgMin", "", 7, infer_arg, forward_arg<false>, nullptr};

}  // namespace qtool::op

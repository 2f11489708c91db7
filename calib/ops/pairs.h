// SPDX-License-Identifier: Apache-2.0
// Two broadcast operands, element by element: the loop behind arithmetic, comparison and logic.
#pragma once

#include "calib/ops/support.h"

namespace qtool::op {

/// Error unless both have one element type.
void require_same_type(const Tensor& a, const Tensor& b);

/// out[i] = f(a[i], b[i]); `out` has the broadcast shape and may be the bytes of an operand of that shape.
template <class T, class R, class F>
void combine(Threads& threads, const Shape& shape, const T* a, const Shape& a_shape, const T* b, const Shape& b_shape,
             R* out, F&& f) {
  const Walk<2> w = make_walk<2>(shape, {broadcast_strides(a_shape, shape), broadcast_strides(b_shape, shape)});
  for_runs(threads, w, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
    const T *x = a + starts[0], *y = b + starts[1];
    R* to = out + at;
    if (steps[0] == 1 && steps[1] == 1) {
      for (std::int64_t i = 0; i < n; ++i) to[i] = f(x[i], y[i]);
    } else if (steps[0] == 1 && steps[1] == 0) {
      for (std::int64_t i = 0, e = n; i < e; ++i) to[i] = f(x[i], *y);
    } else if (steps[0] == 0 && steps[1] == 1) {
      for (std::int64_t i = 0; i < n; ++i) to[i] = f(*x, y[i]);
    } else {
      for (std::int64_t i = 0; i < n; ++i) to[i] = f(x[i * steps[0]], y[i * steps[1]]);
    }
  });
}

/// The same with a result of the operands' type, written over a dying operand where possible. Operands are widened
/// already; `reusable`: they are the context's own.
template <class T, class F>
Tensor combined(const OpContext& ctx, const Tensor& a, const Tensor& b, bool reusable, F&& f) {
  const Shape shape = broadcast(a.shape(), b.shape());
  const Shape a_shape = a.shape(), b_shape = b.shape();
  const T *x = a.read<T>().data(), *y = b.read<T>().data();
  Tensor out;
  for (std::size_t i = 0; i < 2 && reusable && out.empty(); ++i) {
    if (ctx.in(i).sole_owner() && ctx.in(i).shape() == shape) out = ctx.reuse(i, a.dtype(), shape);
  }
  if (out.empty()) out = Tensor(a.dtype(), shape);
  combine(ctx.threads, shape, x, a_shape, y, b_shape, out.write<T>().data(), f);
  return out;
}

}  // namespace qtool::op

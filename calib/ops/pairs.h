// SPDX-License-Identifier: Apache-2.0
// Two broadcast operands, element by element: the loop behind arithmetic, comparison and logic.
#pragma once

#include "calib/ops/support.h"

namespace qtool::op {

/// Error unless both have one element type.
void require_same_type(const Tensor& a, const Tensor& b);

/// How operands of shapes a and b are read for each element of `shape`, to which they broadcast.
inline Walk<2> walk_pairs(const Shape& shape, const Shape& a, const Shape& b) {
  return make_walk<2>(shape, {broadcast_strides(a, shape), broadcast_strides(b, shape)});
}

/// out[i] = f(a[i], b[i]); `out` has the broadcast shape and may be the bytes of an operand of that shape.
template <class T, class R, class F>
void combine(Threads& threads, const Walk<2>& w, const T* a, const T* b, R* out, F&& f) {
  for_runs(threads, w, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
    const T *x = a + starts[0], *y = b + starts[1];
    R* to = out + at;
    with_widest_vectors([&]() QTOOL_INLINE {
      const auto own = f;
      const std::int64_t x_step = steps[0], y_step = steps[1];
      if (x_step == 1 && y_step == 1) {
        fill_by(to, n, [&](std::int64_t i) QTOOL_INLINE { return own(x[i], y[i]); });
      } else if (x_step == 1 && y_step == 0) {
        const T other = *y;
        fill_by(to, n, [&](std::int64_t i) QTOOL_INLINE { return own(x[i], other); });
      } else if (x_step == 0 && y_step == 1) {
        const T one = *x;
        fill_by(to, n, [&](std::int64_t i) QTOOL_INLINE { return own(one, y[i]); });
      } else {
        for (std::int64_t i = 0; i < n; ++i) to[i] = own(x[i * x_step], y[i * y_step]);
      }
    });
  });
}

/// The same with a result of the operands' type, written over a dying operand where possible. Operands are widened
/// already; `reusable`: they are the context's own.
template <class T, class F>
Tensor combined(const OpContext& ctx, const Tensor& a, const Tensor& b, bool reusable, F&& f) {
  const Shape shape = broadcast(a.shape(), b.shape());
  const Walk<2> walk = walk_pairs(shape, a.shape(), b.shape());
  const T *x = a.read<T>().data(), *y = b.read<T>().data();
  Tensor out;
  for (std::size_t i = 0; i < 2 && reusable && out.empty(); ++i) {
    if (ctx.in(i).sole_owner() && ctx.in(i).shape() == shape) out = ctx.reuse(i, a.dtype(), shape);
  }
  if (out.empty()) out = Tensor::unset(a.dtype(), shape);
  combine(ctx.threads, walk, x, y, out.write<T>().data(), f);
  return out;
}

}  // namespace qtool::op

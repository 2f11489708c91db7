// SPDX-License-Identifier: Apache-2.0
// SwiGLU: Swish(a) b, the gate of many feed-forward layers (Shazeer, 2020, arXiv:2002.05202).
#include <cmath>

#include "calib/ops/pairs.h"

namespace qtool::op {
namespace {

void require_same_shape(const Tensor& a, const Tensor& b) {
  require_same_type(a, b);
  if (a.shape() != b.shape()) refuse("the shapes " + to_string(a.shape()) + " and " + to_string(b.shape()) + " differ");
}

void forward(const OpContext& ctx) {
  require_same_shape(ctx.in(0), ctx.in(1));
  const Tensor a = widened(ctx.in(0)), b = widened(ctx.in(1));
  for_float_type(a.dtype(), [&](auto type) {
    using T = decltype(type);
    const T alpha = static_cast<T>(ctx.attrs().get("alpha", 1.0f));
    Tensor y = combined<T>(ctx, a, b, false, [alpha](T gate, T v) { return gate / (1 + std::exp(-alpha * gate)) * v; });
    ctx.out(0, narrowed(std::move(y), ctx.in(0).dtype()));
  });
}

void backward(BackwardContext& ctx) {
  const float alpha = ctx.attrs().get("alpha", 1.0f);
  Tensor da(DType::f32, ctx.in(0).shape()), db(DType::f32, ctx.in(0).shape());
  const auto a = ctx.in(0).read<float>(), b = ctx.in(1).read<float>(), g = ctx.grad(0).read<float>();
  auto pa = da.write<float>(), pb = db.write<float>();
  for (std::size_t i = 0; i < pa.size(); ++i) {
    const float s = 1 / (1 + std::exp(-alpha * a[i]));
    pa[i] = g[i] * b[i] * (s + alpha * a[i] * s * (1 - s));
    pb[i] = g[i] * a[i] * s;
  }
  ctx.input_gradients[0] = std::move(da);
  ctx.input_gradients[1] = std::move(db);
}

}  // namespace

constinit const OpDef SwiGLU{"SwiGLU", "", 28, infer_same, forward, backward};

}  // namespace qtool::op

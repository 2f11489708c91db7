// SPDX-License-Identifier: Apache-2.0
// FlexAttention of ai.onnx.preview: attention whose scores and probabilities go through bodies of the node.
#include <cmath>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/delegate.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

Attrs number(const char* name, std::int64_t value) {
  Attrs a;
  a.set(name, value);
  return a;
}

Tensor cast(const OpContext& c, const Tensor& t, std::int64_t type) {
  return run_op(c, op::Cast, {t}, number("to", type), 13)[0];
}

/// Rows [batch, heads, ...] of fewer heads as [batch, heads, 1, ...], to meet groups of query heads.
Tensor grouped(const Tensor& t, std::int64_t heads) {
  const Shape& s = t.shape();
  return t.reshaped({s[0], heads, s[1] / heads, s[2], s[3]});
}

Tensor modified(const OpContext& c, const char* name, Tensor t) {
  const auto body = c.attrs().graph(name);
  if (body == nullptr) return t;
  const Shape shape = t.shape();
  const std::vector<Tensor> results = c.run_body(*body, {std::move(t)});
  require(results.size() == 1 && results[0].shape() == shape,
          std::string(name) + " of FlexAttention changes the shape of the scores");
  return results[0];
}

void forward(const OpContext& c) {
  const Shape &q = c.in(0).shape(), &k = c.in(1).shape(), &v = c.in(2).shape();
  require(q.size() == 4 && k.size() == 4 && v.size() == 4 && q[0] == k[0] && q[0] == v[0] && q[3] == k[3] &&
              k[1] == v[1] && k[2] == v[2] && k[1] > 0 && q[1] % k[1] == 0,
          "the shapes " + to_string(q) + ", " + to_string(k) + " and " + to_string(v) + " do not fit in FlexAttention");
  const std::int64_t onnx_f32 = 1, onnx_f64 = 11;
  const std::int64_t precision =
      c.attrs().get("softmax_precision", c.in(0).dtype() == DType::f64 ? onnx_f64 : onnx_f32);
  const float scale = c.attrs().get("scale", 1 / std::sqrt(static_cast<float>(q[3])));
  Attrs product = number("transB", 1);
  product.set("alpha", scale);
  const std::int64_t computed = c.in(0).dtype() == DType::f64 ? onnx_f64 : onnx_f32;
  Tensor scores = run_op(c, op::ms_FusedMatMul,
                         {grouped(cast(c, c.in(0), computed), k[1]), grouped(cast(c, c.in(1), computed), k[1])},
                         std::move(product), 1)[0];
  scores = cast(c, scores.reshaped({q[0], q[1], q[2], k[2]}), precision);
  scores = modified(c, "score_mod", std::move(scores));
  Tensor weights = run_op(c, op::Softmax, {scores}, number("axis", -1), 13)[0];
  weights = modified(c, "prob_mod", std::move(weights));
  const Tensor y =
      run_op(c, op::MatMul, {grouped(weights, k[1]), grouped(cast(c, c.in(2), precision), k[1])}, {}, 13)[0];
  const Tensor merged = y.reshaped({q[0], q[1], q[2], v[3]});
  c.out(0, run_op(c, op::CastLike, {merged, c.in(2)}, {}, 15)[0]);
}

void infer(InferContext& c) {
  const Type &q = c.in(0), &v = c.in(2);
  if (!v.known_dtype) return;
  c.out(0, v.dtype);
  if (q.known_rank && v.known_rank && q.shape.size() == 4 && v.shape.size() == 4) {
    c.out(0, v.dtype, {q.shape[0], q.shape[1], q.shape[2], v.shape[3]});
  }
}

}  // namespace

constinit const OpDef preview_FlexAttention{"FlexAttention", "ai.onnx.preview", 1, infer, forward, nullptr};

}  // namespace qtool::op

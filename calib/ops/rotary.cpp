// SPDX-License-Identifier: Apache-2.0
// RotaryEmbedding of ai.onnx (X, cos, sin, positions) and of com.microsoft (X, positions, cos, sin). X is
// [batch, rows, heads * width] or [batch, heads, rows, width]; the tables are [positions, half], or one row for each
// row of X when there are no positions.
#include "calib/ops/rotary.h"

#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

struct Layout {
  std::int64_t batch, rows, heads, width;
  bool heads_first;  // in memory
};

Layout layout_of(const Shape& s, std::int64_t heads) {
  if (s.size() == 4) return {s[0], s[2], s[1], s[3], true};
  require(s.size() == 3 && heads > 0 && s[2] % heads == 0,
          "RotaryEmbedding of an input " + to_string(s) + " in " + std::to_string(heads) + " heads is not defined");
  return {s[0], s[1], heads, s[2] / heads, false};
}

/// By batch and row: the row of the tables.
std::vector<std::int64_t> table_rows(const Layout& l, const Tensor& positions, const Tensor& cos) {
  const std::int64_t n = l.batch * l.rows;
  std::vector<std::int64_t> out;
  if (positions.empty()) {
    require(cos.rank() == 3 && cos.shape()[0] == l.batch && cos.shape()[1] == l.rows,
            "without positions, the tables of RotaryEmbedding should have one row for each row of the input");
    for (std::int64_t i = 0; i < n; ++i) out.push_back(i);
    return out;
  }
  require(cos.rank() == 2, "the tables of RotaryEmbedding have the shape " + to_string(cos.shape()));
  const std::vector<std::int64_t> ids = to_int64s(positions);
  const bool first_only = positions.rank() == 1 && positions.count() == 1;  // the positions that follow it
  require(first_only || static_cast<std::int64_t>(ids.size()) == n, "position_ids do not fit the input");
  for (std::int64_t i = 0; i < n; ++i) {
    out.push_back(first_only ? ids[0] + i % l.rows : ids[at(i)]);
    require(out.back() >= 0 && out.back() < cos.shape()[0],
            "RotaryEmbedding has no angles for position " + std::to_string(out.back()));
  }
  return out;
}

/// `back`: by the opposite angle.
Tensor rotated(Threads& threads, const Attrs& attrs, const Tensor& x, const Tensor& cos, const Tensor& sin,
               const Tensor& positions, bool back = false) {
  require(x.dtype() == cos.dtype() && x.dtype() == sin.dtype() && cos.shape() == sin.shape() && cos.rank() >= 2,
          "the tables of RotaryEmbedding do not fit its input or each other");
  const std::int64_t half = cos.shape().back();
  std::int64_t heads = attrs.get("num_heads", std::int64_t{0});
  const std::int64_t part = attrs.get("rotary_embedding_dim", std::int64_t{0});
  if (x.rank() == 3 && heads == 0 && half > 0) heads = x.shape()[2] / (2 * half);
  const Layout l = layout_of(x.shape(), heads);
  require(2 * half == (part > 0 ? part : l.width) && 2 * half <= l.width,
          "tables of " + std::to_string(half) + " angles do not fit heads of width " + std::to_string(l.width));
  const std::vector<std::int64_t> rows = table_rows(l, positions, cos);
  const bool interleaved = attrs.get("interleaved", std::int64_t{0}) != 0;
  Tensor y(x.dtype(), x.shape());
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *from = x.read<T>().data(), *c = cos.read<T>().data(), *s = sin.read<T>().data();
    T* to = y.write<T>().data();
    for_rows(threads, l.batch * l.heads * l.rows, l.width, [&](std::int64_t i) {
      const std::int64_t b = i / (l.heads * l.rows);
      const std::int64_t row = l.heads_first ? i % l.rows : i / l.heads % l.rows;
      const std::int64_t angle = rows[at(b * l.rows + row)] * half;
      if (!back) return rotate(from + i * l.width, to + i * l.width, c + angle, s + angle, half, interleaved, l.width);
      std::vector<T> opposite(s + angle, s + angle + half);
      for (T& v : opposite) v = -v;
      rotate(from + i * l.width, to + i * l.width, c + angle, opposite.data(), half, interleaved, l.width);
    });
  });
  return y;
}

template <std::size_t cos, std::size_t sin, std::size_t positions>
void forward(const OpContext& c) {
  require(c.attrs().get("is_packed_batching", std::int64_t{0}) == 0 && c.attrs().get("scale", 1.0F) == 1.0F,
          "RotaryEmbedding with is_packed_batching or scale is not supported");
  Tensor y = rotated(c.threads, c.attrs(), compute_float(c.in(0), "the input"), compute_float(c.in(cos), "cos_cache"),
                     compute_float(c.in(sin), "sin_cache"), c.in(positions));
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

/// A rotation's transpose is its inverse. Tables do not learn.
template <std::size_t cos, std::size_t sin, std::size_t positions>
void backward(BackwardContext& c) {
  if (c.wants(0)) {
    c.input_gradients[0] = rotated(c.threads, c.attrs(), c.grad(0), c.in(cos), c.in(sin), c.in(positions), true);
  }
}

}  // namespace

constinit const OpDef RotaryEmbedding{"RotaryEmbedding", "", 23, infer_same, forward<1, 2, 3>, backward<1, 2, 3>};
constinit const OpDef ms_RotaryEmbedding{"RotaryEmbedding", "com.microsoft",  1,
                                         infer_same,        forward<2, 3, 1>, backward<2, 3, 1>};

}  // namespace qtool::op

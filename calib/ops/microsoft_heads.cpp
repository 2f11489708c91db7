// SPDX-License-Identifier: Apache-2.0
// MultiHeadAttention of com.microsoft: (query, key, value, bias, key padding mask, attention bias, past key, past
// value). Queries are [B, S, N * H]; keys and values likewise, or already by heads [B, N, L, H] in cross attention.
#include <cmath>
#include <string>

#include "calib/op.h"
#include "calib/ops/microsoft_attention.h"

namespace qtool::op {
namespace {

enum Input : std::size_t {
  in_query,
  in_key,
  in_value,
  in_bias,
  in_padding,
  in_attention_bias,
  in_past_key,
  in_past_value
};

/// x [B, rows, width] plus entries [first, first + width) of the bias, in float32.
Tensor biased(const Tensor& x, const Tensor& bias, std::int64_t first) {
  Tensor out = compute_float(x, "an operand of MultiHeadAttention");
  if (bias.empty()) return out;
  const Tensor b = compute_float(bias, "the bias");
  const std::int64_t width = x.shape()[2];
  const float* from = b.read<float>().data() + first;
  const auto to = out.write<float>();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[static_cast<std::int64_t>(i) % width];
  return out;
}

/// One state: what was there before, followed by new rows; or the rows as they are.
struct State {
  Tensor rows, joined;
  Heads<const float*> heads;
  std::int64_t length = 0;
};

State state_of(const OpContext& c, std::int64_t heads, std::int64_t width, Tensor rows, const Tensor& past, bool keep) {
  State s;
  s.rows = std::move(rows);
  const Shape& shape = s.rows.shape();
  const bool by_head = shape.size() == 4;
  s.length = shape[by_head ? 2 : 1];
  const float* data = s.rows.read<float>().data();
  s.heads = by_head ? Heads<const float*>::by_head(data, heads, s.length, width)
                    : Heads<const float*>::by_row(data, s.length, shape[2], width);
  if (past.empty() && !keep) return s;
  if (past) {
    const Shape& p = past.shape();
    require(p.size() == 4 && p == Shape{shape[0], heads, p[2], width},
            "the past of MultiHeadAttention has the shape " + to_string(p));
    s.length += p[2];
  }
  const Tensor before = past ? compute_float(past, "the past") : Tensor();
  s.joined = appended<float>(c.threads, before, s.heads, {shape[0], heads, s.length, width});
  s.heads = Heads<const float*>::by_head(s.joined.read<float>().data(), heads, s.length, width);
  return s;
}

void forward(const OpContext& c) {
  const Shape &q = c.in(in_query).shape(), &k = c.in(in_key).shape(), &v = c.in(in_value).shape();
  const std::int64_t heads = c.attrs().get("num_heads", std::int64_t{0});
  require(heads > 0 && q.size() == 3 && c.has(in_key) && c.has(in_value) && k.size() == v.size() &&
              (k.size() == 3 || k.size() == 4) && q[2] % heads == 0 && q[2] > 0,
          "MultiHeadAttention of the shapes " + to_string(q) + ", " + to_string(k) + " and " + to_string(v) +
              " is not supported");
  require(c.has(in_past_key) == c.has(in_past_value), "MultiHeadAttention needs the past of both keys and values");
  require(!c.has(8) && !c.has(9), "MultiHeadAttention with past_sequence_length or cache_indirection is not supported");
  const bool cross = k.size() == 4;  // keys and values are complete
  AttentionProblem<float> a;
  a.batch = q[0];
  a.heads = a.kv_heads = heads;
  a.queries = q[1];
  a.width = q[2] / heads;
  a.value_width = cross ? v[3] : v[2] / heads;
  const std::int64_t rows = cross ? k[2] : k[1];
  require(k[0] == q[0] && v[0] == q[0] && (cross ? v[2] : v[1]) == rows && a.value_width > 0 &&
              (cross ? k == Shape{q[0], heads, rows, a.width} && v[1] == heads
                     : k[2] == q[2] && v[2] == a.value_width * heads),
          "the shapes " + to_string(q) + ", " + to_string(k) + " and " + to_string(v) + " do not fit");
  const Tensor& bias = c.in(in_bias);
  require(bias.empty() || bias.count() == 2 * q[2] + a.value_width * heads,
          "the bias of MultiHeadAttention has " + std::to_string(bias.count()) + " entries");
  const float scale = c.attrs().get("scale", 0.0F);
  a.scale = scale != 0 ? scale : 1.0F / std::sqrt(static_cast<float>(a.width));

  const Tensor query = biased(c.in(in_query), bias, 0), none;
  a.q = Heads<const float*>::by_row(query.read<float>().data(), q[1], q[2], a.width);
  const State keys = state_of(c, heads, a.width, biased(c.in(in_key), cross ? none : bias, q[2]), c.in(in_past_key),
                              c.wants(1)),
              values = state_of(c, heads, a.value_width, biased(c.in(in_value), cross ? none : bias, 2 * q[2]),
                                c.in(in_past_value), c.wants(2));
  require(keys.length == values.length, "the pasts of keys and values differ in length");
  a.k = keys.heads;
  a.v = values.heads;
  a.keys = keys.length;
  set_masks(a, {c.in(in_padding), c.in(in_attention_bias), c.attrs().get("mask_filter_value", -10000.0F),
                c.attrs().get("unidirectional", std::int64_t{0}) != 0, keys.length - rows});
  Tensor y(DType::f32, {q[0], q[1], heads * a.value_width}), kept;
  a.y = Heads<float*>::by_row(y.write<float>().data(), q[1], heads * a.value_width, a.value_width);
  if (c.wants(3)) {
    kept = Tensor(DType::f32, {a.batch, a.heads, a.queries, a.keys});
    a.kept = kept.write<float>().data();
  }
  attend(c.threads, a);
  const DType stored = c.in(in_query).dtype();
  c.out(0, narrowed(std::move(y), stored));
  if (c.wants(1)) c.out(1, narrowed(keys.joined, stored));
  if (c.wants(2)) c.out(2, narrowed(values.joined, stored));
  if (c.wants(3)) c.out(3, std::move(kept));
}

void infer(InferContext& c) {
  const Type &q = c.in(in_query), &v = c.in(in_value);
  if (!q.known_dtype) return;
  for (std::size_t i = 0; i < 3; ++i) c.out(i, q.dtype);
  const std::int64_t heads = c.attrs().get("num_heads", std::int64_t{0});
  if (!q.known_rank || !v.known_rank || q.shape.size() != 3 || heads < 1) return;
  const bool cross = v.shape.size() == 4;
  const std::int64_t wide = v.shape.back();
  c.out(0, q.dtype, {q.shape[0], q.shape[1], wide < 0 ? -1 : cross ? heads * wide : wide});
}

}  // namespace

constinit const OpDef ms_MultiHeadAttention{"MultiHeadAttention", "com.microsoft", 1, infer, forward, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// Attention of ai.onnx (opset 23 and later). Queries, keys and values come as [batch, heads, rows, width] or as
// [batch, rows, heads * width]; the cache is kept inside (past and present) or outside (nonpad_kv_seqlen).
#include <cmath>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/attention.h"

namespace qtool::op {
namespace {

enum Input : std::size_t { in_q, in_k, in_v, in_mask, in_past_key, in_past_value, in_valid };

/// [batch, heads, rows, width] of an operand in either form; -1 where unknown.
Shape by_heads(const Shape& s, std::int64_t heads, const char* what) {
  if (s.size() == 4) return s;
  require(
      s.size() == 3 && heads > 0 && (s[2] < 0 || s[2] % heads == 0),
      std::string(what) + " of Attention has the shape " + to_string(s) + " in " + std::to_string(heads) + " heads");
  return {s[0], heads, s[1], s[2] < 0 ? -1 : s[2] / heads};
}

template <class P>
Heads<P> heads_of(P data, const Shape& given, const Shape& s) {
  return given.size() == 4 ? Heads<P>::by_head(data, s[1], s[2], s[3]) : Heads<P>::by_row(data, s[2], given[2], s[3]);
}

std::int64_t query_heads(const Attrs& attrs) { return attrs.get("q_num_heads", std::int64_t{0}); }
std::int64_t key_heads(const Attrs& attrs) { return attrs.get("kv_num_heads", std::int64_t{0}); }

/// Which keys a query sees by position: the causal frontier, the sliding window, and the end of what is no padding.
struct Frontier {
  std::vector<std::int64_t> valid;  // per batch; empty: all keys
  std::int64_t past, queries, keys;
  bool causal;
  std::int64_t left, right;  // -1: unbounded

  bool needed() const { return causal || left >= 0 || right >= 0 || !valid.empty(); }
  KeyRange operator()(std::int64_t b, std::int64_t query) const {
    KeyRange r{0, valid.empty() ? keys : valid[at(b)]};
    const std::int64_t position = query + (valid.empty() ? past : valid[at(b)] - queries);
    if (causal) r.end = std::min(r.end, position + 1);
    if (right >= 0) r.end = std::min(r.end, position + right + 1);
    if (left >= 0) r.begin = position - left;
    return r;
  }
};

/// A node with its operands laid out; everything but the results.
template <class T>
struct Layout {
  Shape qs, ks, vs;  // of the operands, by heads
  Tensor present_key, present_value;
  AttentionProblem<T> problem;
};

/// `present`: the joined states are wanted.
template <class T>
Layout<T> layout_of(const OpContext& c, const Tensor& q, const Tensor& k, const Tensor& v, bool present) {
  Layout<T> l;
  const Shape qs = by_heads(q.shape(), query_heads(c.attrs()), "the query"),
              ks = by_heads(k.shape(), key_heads(c.attrs()), "the key"),
              vs = by_heads(v.shape(), key_heads(c.attrs()), "the value");
  require(q.rank() == k.rank() && k.rank() == v.rank() && qs[0] == ks[0] && qs[0] == vs[0] && qs[3] == ks[3] &&
              ks[1] == vs[1] && ks[2] == vs[2],
          "the shapes " + to_string(q.shape()) + ", " + to_string(k.shape()) + " and " + to_string(v.shape()) +
              " do not fit in Attention");
  require(c.has(in_past_key) == c.has(in_past_value), "Attention needs the past of both keys and values, or of none");
  require(!c.has(in_valid) || !c.has(in_past_key), "nonpad_kv_seqlen excludes a past in Attention");
  std::int64_t past = 0;
  if (c.has(in_past_key)) {
    const Shape &pk = c.in(in_past_key).shape(), &pv = c.in(in_past_value).shape();
    require(pk.size() == 4 && pv.size() == 4 && pk[2] == pv[2] && pk == Shape{ks[0], ks[1], pk[2], ks[3]} &&
                pv == Shape{vs[0], vs[1], pk[2], vs[3]},
            "the past of Attention has the shapes " + to_string(pk) + " and " + to_string(pv));
    past = pk[2];
  }

  l.qs = qs;
  l.ks = ks;
  l.vs = vs;
  AttentionProblem<T>& a = l.problem;
  a.batch = qs[0];
  a.heads = qs[1];
  a.kv_heads = ks[1];
  a.queries = qs[2];
  a.keys = past + ks[2];
  a.width = qs[3];
  a.value_width = vs[3];
  a.scale = static_cast<T>(c.attrs().get("scale", 1.0F / std::sqrt(static_cast<float>(qs[3]))));
  a.softcap = static_cast<T>(c.attrs().get("softcap", 0.0F));
  a.q = heads_of(q.read<T>().data(), q.shape(), qs);
  a.k = heads_of(k.read<T>().data(), k.shape(), ks);
  a.v = heads_of(v.read<T>().data(), v.shape(), vs);
  if (past > 0 || present) {
    l.present_key = appended<T>(c.threads, widened(c.in(in_past_key)), a.k, {ks[0], ks[1], a.keys, ks[3]});
    l.present_value = appended<T>(c.threads, widened(c.in(in_past_value)), a.v, {vs[0], vs[1], a.keys, vs[3]});
    const Tensor &joined_keys = l.present_key, &joined_values = l.present_value;
    a.k = Heads<const T*>::by_head(joined_keys.read<T>().data(), ks[1], a.keys, ks[3]);
    a.v = Heads<const T*>::by_head(joined_values.read<T>().data(), vs[1], a.keys, vs[3]);
  }
  Frontier frontier{{},
                    past,
                    a.queries,
                    a.keys,
                    c.attrs().get("is_causal", std::int64_t{0}) != 0,
                    c.attrs().get("left_window_size", std::int64_t{-1}),
                    c.attrs().get("right_window_size", std::int64_t{-1})};
  if (c.has(in_valid)) {
    frontier.valid = to_int64s(c.in(in_valid));
    require(static_cast<std::int64_t>(frontier.valid.size()) == a.batch,
            "nonpad_kv_seqlen does not have one entry per sample");
    for (const std::int64_t n : frontier.valid) {
      require(n >= 0 && n <= a.keys, "nonpad_kv_seqlen has the value " + std::to_string(n));
    }
  }
  if (frontier.needed()) a.visible = frontier;
  if (c.has(in_mask)) {
    a.bias = [mask = ScoreBias<T>(c.in(in_mask), a)](std::int64_t b, std::int64_t h, std::int64_t s, KeyRange keys,
                                                     T* scores) { mask.add(b, h, s, keys, scores); };
  }
  return l;
}

template <class T>
void run(const OpContext& c, const Tensor& q, const Tensor& k, const Tensor& v) {
  Layout<T> l = layout_of<T>(c, q, k, v, c.wants(1) || c.wants(2));
  AttentionProblem<T>& a = l.problem;
  const Shape &qs = l.qs, &vs = l.vs;
  const bool dense = q.rank() == 4;
  const Shape shape = dense ? Shape{qs[0], qs[1], qs[2], vs[3]} : Shape{qs[0], qs[2], qs[1] * vs[3]};
  Tensor y(DTypeOf<T>::value, shape), kept;
  a.y = heads_of(y.write<T>().data(), shape, {qs[0], qs[1], qs[2], vs[3]});
  if (c.wants(3)) {
    const std::int64_t mode = c.attrs().get("qk_matmul_output_mode", std::int64_t{0});
    require(mode >= 0 && mode <= 3, "qk_matmul_output_mode has the value " + std::to_string(mode));
    kept = Tensor(DTypeOf<T>::value, {a.batch, a.heads, a.queries, a.keys});
    a.kept = kept.write<T>().data();
    a.stage = static_cast<Stage>(mode);
  }
  attend(c.threads, a);
  const DType stored = c.in(in_q).dtype();
  c.out(0, narrowed(std::move(y), stored));
  c.out(1, narrowed(std::move(l.present_key), stored));
  c.out(2, narrowed(std::move(l.present_value), c.in(in_v).dtype()));
  c.out(3, narrowed(std::move(kept), stored));
}

void forward(const OpContext& c) {
  Tensor q = compute_float(c.in(in_q), "the query"), k = compute_float(c.in(in_k), "the key"),
         v = compute_float(c.in(in_v), "the value");
  require(q.dtype() == k.dtype() && k.dtype() == v.dtype(), "the operands of Attention differ in type");
  for_float_type(q.dtype(), [&](auto type) { run<decltype(type)>(c, q, k, v); });
}

void backward(BackwardContext& c) {
  for (std::size_t i = 1; i < c.output_gradients.size(); ++i) {
    require(c.grad(i).empty(), "there are no gradients of the states that Attention puts out");
  }
  require(!c.has(in_past_key), "there are no gradients of Attention with a past");
  const std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)> no_bodies;
  std::vector<Tensor> nothing;
  const OpContext ctx{c.node, c.opset, c.inputs, nothing, c.threads, no_bodies};
  const Tensor &q = c.in(in_q), &k = c.in(in_k), &v = c.in(in_v);
  const Layout<float> l = layout_of<float>(ctx, q, k, v, false);
  Tensor dq(DType::f32, q.shape()), dk(DType::f32, k.shape()), dv(DType::f32, v.shape());
  const AttentionGradients<float> g{heads_of(dq.write<float>().data(), q.shape(), l.qs),
                                    heads_of(dk.write<float>().data(), k.shape(), l.ks),
                                    heads_of(dv.write<float>().data(), v.shape(), l.vs)};
  attend_backward(c.threads, l.problem,
                  heads_of(c.grad(0).read<float>().data(), c.grad(0).shape(), {l.qs[0], l.qs[1], l.qs[2], l.vs[3]}), g);
  c.input_gradients[in_q] = std::move(dq);
  c.input_gradients[in_k] = std::move(dk);
  c.input_gradients[in_v] = std::move(dv);
}

void infer(InferContext& c) {
  const Type &q = c.in(in_q), &k = c.in(in_k), &v = c.in(in_v);
  if (q.known_dtype) {
    c.out(0, q.dtype);
    c.out(1, q.dtype);
    c.out(3, q.dtype);
  }
  if (v.known_dtype) c.out(2, v.dtype);
  if (!q.known_dtype || !v.known_dtype || !q.known_rank || !k.known_rank || !v.known_rank) return;
  const Shape qs = by_heads(q.shape, query_heads(c.attrs()), "the query"),
              ks = by_heads(k.shape, key_heads(c.attrs()), "the key"),
              vs = by_heads(v.shape, key_heads(c.attrs()), "the value");
  const bool dense = q.shape.size() == 4;
  const std::int64_t width = dense || vs[3] < 0 ? vs[3] : qs[1] * vs[3];
  c.out(0, q.dtype, dense ? Shape{qs[0], qs[1], qs[2], width} : Shape{qs[0], qs[2], width});
  const Type& before = c.in(in_past_key);
  std::int64_t total = ks[2];
  if (c.has(in_past_key)) {
    const bool known = before.known_rank && before.shape.size() == 4 && before.shape[2] >= 0 && total >= 0;
    total = known ? before.shape[2] + total : -1;
  }
  c.out(1, q.dtype, {ks[0], ks[1], total, ks[3]});
  c.out(2, v.dtype, {vs[0], vs[1], total, vs[3]});
  c.out(3, q.dtype, {qs[0], qs[1], qs[2], total});
}

}  // namespace

constinit const OpDef Attention{"Attention", "", 23, infer, forward, backward};

}  // namespace qtool::op

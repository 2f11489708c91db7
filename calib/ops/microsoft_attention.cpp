// SPDX-License-Identifier: Apache-2.0
// Attention and QAttention of com.microsoft: one projection to Q, K and V, softmax(Q K^T * scale + mask) V by heads,
// and the states of earlier steps. Letters: B batch, S new positions, P past ones, T = P + S, N heads, H width of a
// head.
#include "calib/ops/microsoft_attention.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/delegate.h"

namespace qtool::op {
namespace {

class PaddingMask {
 public:
  PaddingMask(const Tensor& mask, const AttentionProblem<float>& a, float filter)
      : values_(to_int64s(mask)), batch_(a.batch), queries_(a.queries), keys_(a.keys), filter_(filter) {
    const Shape& s = mask.shape();
    lengths_ = s == Shape{a.batch} || s == Shape{3 * a.batch + 2};
    ranges_ = !lengths_ && s == Shape{2 * a.batch};
    pairs_ = s == Shape{a.batch, a.queries, a.keys};
    require(lengths_ || ranges_ || pairs_ || s == Shape{a.batch, a.keys},
            "a mask of shape " + to_string(s) + " is not supported here");
  }

  void add(std::int64_t b, std::int64_t query, KeyRange keys, float* scores) const {
    for (std::int64_t t = keys.begin; t < keys.end; ++t) {
      if (!sees(b, query, t)) scores[t - keys.begin] += filter_;
    }
  }

 private:
  bool sees(std::int64_t b, std::int64_t query, std::int64_t t) const {
    if (lengths_) return t < values_[at(b)];
    if (ranges_) return t < values_[at(b)] && t >= values_[at(batch_ + b)];
    return values_[at((pairs_ ? b * queries_ + query : b) * keys_ + t)] > 0;
  }

  std::vector<std::int64_t> values_;
  std::int64_t batch_, queries_, keys_;
  float filter_;
  bool lengths_ = false, ranges_ = false, pairs_ = false;
};

struct Sizes {
  std::int64_t batch, length, past, heads;
  std::int64_t qk, v;                                          // widths of one head
  std::int64_t width() const { return heads * (2 * qk + v); }  // of a projected position
};

/// `past`: [2, B, N, P, H] or empty.
Sizes sizes_of(const Attrs& attrs, const Shape& x, const Shape& w, const Tensor& past) {
  require(x.size() == 3 && w.size() == 2 && w[0] == x[2],
          "Attention of an input " + to_string(x) + " with weights " + to_string(w) + " is not defined");
  require(attrs.get("do_rotary", std::int64_t{0}) == 0 && attrs.get("past_present_share_buffer", std::int64_t{0}) == 0,
          "Attention with do_rotary or past_present_share_buffer is not supported");
  Sizes p{x[0], x[1], 0, attrs.get("num_heads", std::int64_t{0}), 0, 0};
  require(p.heads > 0, "Attention has no num_heads");
  std::vector<std::int64_t> sizes = attrs.get("qkv_hidden_sizes", std::vector<std::int64_t>{});
  if (sizes.empty()) sizes.assign(3, w[1] / 3);
  require(sizes.size() == 3 && sizes[0] > 0 && sizes[0] == sizes[1] && sizes[2] > 0 && sizes[0] % p.heads == 0 &&
              sizes[2] % p.heads == 0 && sizes[0] + sizes[1] + sizes[2] == w[1],
          "the widths of Q, K and V do not fit the weights of Attention");
  p.qk = sizes[0] / p.heads;
  p.v = sizes[2] / p.heads;
  if (past) {
    const Shape& s = past.shape();
    require(s.size() == 5 && s[0] == 2 && s[1] == p.batch && s[2] == p.heads && s[4] == p.qk && p.qk == p.v,
            "the past of Attention has the shape " + to_string(s));
    p.past = s[3];
  }
  return p;
}

/// Part 0 (keys) or 1 (values) of a state [2, ...].
Tensor half_of(const Tensor& state, std::int64_t part) {
  if (state.empty()) return {};
  const Tensor whole = compute_float(state, "the past");
  Tensor out(DType::f32, Shape(whole.shape().begin() + 1, whole.shape().end()));
  std::copy_n(whole.read<float>().data() + part * out.count(), out.count(), out.write<float>().data());
  return out;
}

/// Outputs 0 and 1 from projected positions [B, S, width].
void attend_projected(const OpContext& c, const Sizes& p, const Tensor& projected, const Tensor& past,
                      const Tensor& padding, const Tensor& bias, DType stored) {
  AttentionProblem<float> a;
  a.batch = p.batch;
  a.heads = a.kv_heads = p.heads;
  a.queries = p.length;
  a.keys = p.past + p.length;
  a.width = p.qk;
  a.value_width = p.v;
  const float scale = c.attrs().get("scale", 0.0F);
  a.scale = scale != 0 ? scale : 1.0F / std::sqrt(static_cast<float>(p.qk));
  const float* from = projected.read<float>().data();
  a.q = Heads<const float*>::by_row(from, p.length, p.width(), p.qk);
  a.k = Heads<const float*>::by_row(from + p.heads * p.qk, p.length, p.width(), p.qk);
  a.v = Heads<const float*>::by_row(from + 2 * p.heads * p.qk, p.length, p.width(), p.v);
  Tensor keys, values;
  if (p.past > 0 || c.wants(1)) {
    require(p.qk == p.v, "Attention keeps a past only when keys and values have one width");
    const Shape shape{p.batch, p.heads, a.keys, p.qk};
    keys = appended<float>(c.threads, half_of(past, 0), a.k, shape);
    values = appended<float>(c.threads, half_of(past, 1), a.v, shape);
    a.k = Heads<const float*>::by_head(keys.read<float>().data(), p.heads, a.keys, p.qk);
    a.v = Heads<const float*>::by_head(values.read<float>().data(), p.heads, a.keys, p.v);
  }
  set_masks(a, {padding, bias, c.attrs().get("mask_filter_value", -10000.0F),
                c.attrs().get("unidirectional", std::int64_t{0}) != 0, p.past});
  Tensor y(DType::f32, {p.batch, p.length, p.heads * p.v});
  a.y = Heads<float*>::by_row(y.write<float>().data(), p.length, p.heads * p.v, p.v);
  attend(c.threads, a);
  c.out(0, narrowed(std::move(y), stored));
  if (!c.wants(1)) return;
  Tensor present(DType::f32, {2, p.batch, p.heads, a.keys, p.qk});
  float* to = present.write<float>().data();
  std::copy_n(keys.read<float>().data(), keys.count(), to);
  std::copy_n(values.read<float>().data(), values.count(), to + keys.count());
  c.out(1, narrowed(std::move(present), stored));
}

/// (input, weights, bias, mask, past, attention bias)
void attention(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the input"), w = compute_float(c.in(1), "the weights");
  const Sizes p = sizes_of(c.attrs(), x.shape(), w.shape(), c.in(4));
  const std::int64_t width = p.width(), rows = p.batch * p.length;
  Tensor projected(DType::f32, {p.batch, p.length, width});
  float* to = projected.write<float>().data();
  if (c.has(2)) {
    const Tensor bias = compute_float(c.in(2), "the bias");
    require(bias.count() == width, "the bias of Attention has " + std::to_string(bias.count()) + " entries");
    for (std::int64_t r = 0; r < rows; ++r) std::copy_n(bias.read<float>().data(), width, to + r * width);
  }
  gemm(c.threads, false, false, rows, width, w.shape()[0], 1.0F, x.read<float>().data(), w.shape()[0],
       w.read<float>().data(), width, c.has(2) ? 1.0F : 0.0F, to, width);
  attend_projected(c, p, projected, c.in(4), c.in(3), c.in(5), c.in(0).dtype());
}

/// (input, weights, bias, input scale, weight scale, mask, input zero point, weight zero point, past)
void q_attention(const OpContext& c) {
  const Sizes p = sizes_of(c.attrs(), c.in(0).shape(), c.in(1).shape(), c.in(8));
  const Tensor projected =
      run_op(c, op::ms_MatMulIntegerToFloat, {c.in(0), c.in(1), c.in(3), c.in(4), c.in(6), c.in(7), c.in(2)}, {}, 1)[0];
  attend_projected(c, p, to_f32(projected), c.in(8), c.in(5), {}, c.in(2).dtype());
}

/// `stored`: the input whose type the outputs have.
void infer_from(InferContext& c, std::size_t stored) {
  if (!c.in(stored).known_dtype) return;
  Type t = c.in(0);
  t.dtype = c.in(stored).dtype;
  t.known_dtype = true;
  t.symbols.clear();
  const std::vector<std::int64_t> sizes = c.attrs().get("qkv_hidden_sizes", std::vector<std::int64_t>{});
  if (t.known_rank && t.shape.size() == 3) {
    t.shape[2] = -1;
    if (sizes.size() == 3) {
      t.shape[2] = sizes[2];
    } else if (c.in(1).known_rank && c.in(1).shape.size() == 2 && c.in(1).shape[1] > 0) {
      t.shape[2] = c.in(1).shape[1] / 3;
    }
  }
  c.out(0, t);
  c.out(1, t.dtype);
}

void attention_infer(InferContext& c) { infer_from(c, 0); }
void q_attention_infer(InferContext& c) { infer_from(c, 2); }

}  // namespace

void set_masks(AttentionProblem<float>& a, const MicrosoftMasks& m) {
  if (m.causal) {
    a.visible = [past = m.past](std::int64_t, std::int64_t query) { return KeyRange{0, past + query + 1}; };
  }
  if (m.padding.empty() && m.bias.empty()) return;
  std::shared_ptr<const PaddingMask> padding;
  std::shared_ptr<const ScoreBias<float>> bias;
  if (m.padding) padding = std::make_shared<PaddingMask>(m.padding, a, m.filter);
  if (m.bias) bias = std::make_shared<ScoreBias<float>>(m.bias, a);
  a.bias = [padding, bias](std::int64_t b, std::int64_t h, std::int64_t query, KeyRange keys, float* scores) {
    if (padding) padding->add(b, query, keys, scores);
    if (bias) bias->add(b, h, query, keys, scores);
  };
}

constinit const OpDef ms_Attention{"Attention", "com.microsoft", 1, attention_infer, attention, nullptr};
constinit const OpDef ms_QAttention{"QAttention", "com.microsoft", 1, q_attention_infer, q_attention, nullptr};

}  // namespace qtool::op

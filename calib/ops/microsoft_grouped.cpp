// SPDX-License-Identifier: Apache-2.0
// GroupQueryAttention of com.microsoft: causal attention whose query heads share key heads (Ainslie et al., 2023,
// arXiv:2305.13245), with rotary embeddings and a cache in one step. (query, key, value, past key, past value,
// seqlens_k, total_sequence_length, cos, sin, position ids, attention bias, head sink)
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/attention.h"
#include "calib/ops/rotary.h"
#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

enum Input : std::size_t {
  in_query,
  in_key,
  in_value,
  in_past_key,
  in_past_value,
  in_lengths,
  in_total,
  in_cos,
  in_sin,
  in_positions,
  in_bias,
  in_sink
};

struct Sizes {
  std::int64_t batch, rows, heads, kv_heads, width;
  bool packed;                     // queries, keys and values in one operand
  std::int64_t before, after;      // rows of the cache
  std::vector<std::int64_t> past;  // by batch: rows that count before this step
  std::int64_t past_of(std::int64_t b) const { return past[at(b)]; }
};

void refuse_unsupported(const OpContext& c) {
  const Attrs& a = c.attrs();
  require(a.get("k_quant_type", "NONE") == std::string("NONE") &&
              a.get("v_quant_type", "NONE") == std::string("NONE") &&
              a.get("sliding_window_cache", std::int64_t{0}) == 0 && a.get("qk_output", std::int64_t{0}) == 0 &&
              !c.wants(3) && !c.has(14) && !c.has(15),
          "GroupQueryAttention with a quantized or window-sized cache, qk_output or norms is not supported");
}

Sizes sizes_of(const OpContext& c) {
  refuse_unsupported(c);
  const Shape& q = c.in(in_query).shape();
  Sizes s{};
  s.heads = c.attrs().get("num_heads", std::int64_t{0});
  s.kv_heads = c.attrs().get("kv_num_heads", std::int64_t{0});
  s.packed = !c.has(in_key);
  const std::int64_t parts = s.heads + (s.packed ? 2 * s.kv_heads : 0);
  require(s.heads > 0 && s.kv_heads > 0 && q.size() == 3 && q[2] > 0 && q[2] % parts == 0,
          "the queries " + to_string(q) + " do not fit " + std::to_string(s.heads) + " heads in GroupQueryAttention");
  s.batch = q[0];
  s.rows = q[1];
  s.width = q[2] / parts;
  const Shape rows{s.batch, s.rows, s.kv_heads * s.width};
  require(s.packed ? !c.has(in_value) : c.in(in_key).shape() == rows && c.in(in_value).shape() == rows,
          "the keys or values of GroupQueryAttention do not fit its queries");
  require(c.has(in_past_key) == c.has(in_past_value), "GroupQueryAttention needs the past of both keys and values");
  if (c.has(in_past_key)) {
    const Shape& p = c.in(in_past_key).shape();
    require(p.size() == 4 && p == Shape{s.batch, s.kv_heads, p[2], s.width} && c.in(in_past_value).shape() == p,
            "the past of GroupQueryAttention has the shape " + to_string(p));
    s.before = p[2];
  }
  const std::int64_t total = one_integer(c.in(in_total), "total_sequence_length");
  s.after = std::max(total, s.before);
  require(total >= s.rows && total <= s.before + s.rows,
          "total_sequence_length has the value " + std::to_string(total));
  const std::vector<std::int64_t> last = to_int64s(c.in(in_lengths));
  require(static_cast<std::int64_t>(last.size()) == s.batch, "seqlens_k does not have one entry per sample");
  for (const std::int64_t n : last) {
    require(n >= 0 && n < total, "seqlens_k has the value " + std::to_string(n));
    s.past.push_back(s.rows == total ? 0 : n + 1 - s.rows);
    require(s.past.back() >= 0 && s.past.back() <= s.before, "seqlens_k has the value " + std::to_string(n));
  }
  return s;
}

/// Turns heads by their position, or copies them.
class Turner {
 public:
  Turner(const OpContext& c, const Sizes& s) : interleaved_(c.attrs().get("rotary_interleaved", std::int64_t{0}) != 0) {
    if (c.attrs().get("do_rotary", std::int64_t{0}) == 0) return;
    cos_ = compute_float(c.in(in_cos), "cos_cache");
    sin_ = compute_float(c.in(in_sin), "sin_cache");
    require(cos_.rank() == 2 && cos_.shape() == sin_.shape() && 2 * cos_.shape()[1] <= s.width,
            "the tables of angles of GroupQueryAttention do not fit its heads");
    half_ = cos_.shape()[1];
    const std::vector<std::int64_t> given =
        c.has(in_positions) ? to_int64s(c.in(in_positions)) : std::vector<std::int64_t>{};
    require(given.empty() || static_cast<std::int64_t>(given.size()) == s.batch * s.rows,
            "position_ids do not fit the queries");
    for (std::int64_t i = 0; i < s.batch * s.rows; ++i) {
      positions_.push_back(given.empty() ? s.past_of(i / s.rows) + i % s.rows : given[at(i)]);
      require(positions_.back() >= 0 && positions_.back() < cos_.shape()[0],
              "there are no angles for position " + std::to_string(positions_.back()));
    }
  }

  /// `row`: batch * rows + row.
  void turn(const float* x, float* y, std::int64_t row, std::int64_t width) const {
    if (half_ == 0) {
      std::copy_n(x, width, y);
      return;
    }
    const std::int64_t at_angle = positions_[at(row)] * half_;
    rotate(x, y, cos_.read<float>().data() + at_angle, sin_.read<float>().data() + at_angle, half_, interleaved_,
           width);
  }

 private:
  bool interleaved_;
  std::int64_t half_ = 0;
  Tensor cos_, sin_;
  std::vector<std::int64_t> positions_;
};

/// The cache [B, kv heads, after, H]: what counts of the past, the new rows behind it, zeros.
template <class F>
Tensor cache(const OpContext& c, const Sizes& s, const Tensor& past, F&& write_row) {
  Tensor out(DType::f32, {s.batch, s.kv_heads, s.after, s.width});
  const Tensor old = past ? compute_float(past, "the past") : Tensor();
  const float* from = old ? old.read<float>().data() : nullptr;
  float* to = out.write<float>().data();
  for_rows(c.threads, s.batch * s.kv_heads, s.after * s.width, [&](std::int64_t i) {
    const std::int64_t b = i / s.kv_heads, kept = s.past_of(b);
    if (kept > 0) std::copy_n(from + i * s.before * s.width, kept * s.width, to + i * s.after * s.width);
    for (std::int64_t r = 0; r < s.rows && kept + r < s.after; ++r) {
      write_row(b, i % s.kv_heads, r, to + (i * s.after + kept + r) * s.width);
    }
  });
  return out;
}

void forward(const OpContext& c) {
  const Sizes s = sizes_of(c);
  const Tensor query = compute_float(c.in(in_query), "the query");
  const Tensor key = s.packed ? query : compute_float(c.in(in_key), "the key"),
               value = s.packed ? query : compute_float(c.in(in_value), "the value");
  using Rows = Heads<const float*>;
  const std::int64_t pitch = query.shape()[2], kv_pitch = key.shape()[2];
  const Rows q = Rows::by_row(query.read<float>().data(), s.rows, pitch, s.width),
             k = Rows::by_row(key.read<float>().data() + (s.packed ? s.heads * s.width : 0), s.rows, kv_pitch, s.width),
             v = Rows::by_row(value.read<float>().data() + (s.packed ? (s.heads + s.kv_heads) * s.width : 0), s.rows,
                              kv_pitch, s.width);
  const Turner turner(c, s);
  Tensor turned(DType::f32, {s.batch, s.heads, s.rows, s.width});
  float* turned_rows = turned.write<float>().data();
  for_rows(c.threads, s.batch * s.heads * s.rows, s.width, [&](std::int64_t i) {
    const std::int64_t b = i / (s.heads * s.rows), r = i % s.rows;
    turner.turn(q.at(b, i / s.rows % s.heads, r), turned_rows + i * s.width, b * s.rows + r, s.width);
  });
  Tensor present_key = cache(c, s, c.in(in_past_key), [&](std::int64_t b, std::int64_t h, std::int64_t r, float* to) {
    turner.turn(k.at(b, h, r), to, b * s.rows + r, s.width);
  });
  Tensor present_value = cache(
      c, s, c.in(in_past_value),
      [&](std::int64_t b, std::int64_t h, std::int64_t r, float* to) { std::copy_n(v.at(b, h, r), s.width, to); });

  AttentionProblem<float> a;
  a.batch = s.batch;
  a.heads = s.heads;
  a.kv_heads = s.kv_heads;
  a.queries = s.rows;
  a.keys = s.after;
  a.width = a.value_width = s.width;
  const float scale = c.attrs().get("scale", 0.0F);
  a.scale = scale != 0 ? scale : 1.0F / std::sqrt(static_cast<float>(s.width));
  a.softcap = c.attrs().get("softcap", 0.0F);
  a.q = Rows::by_head(turned_rows, s.heads, s.rows, s.width);
  a.k = Rows::by_head(present_key.read<float>().data(), s.kv_heads, s.after, s.width);
  a.v = Rows::by_head(present_value.read<float>().data(), s.kv_heads, s.after, s.width);
  const std::int64_t window = c.attrs().get("local_window_size", std::int64_t{-1});
  const bool causal = c.attrs().get("causal", std::int64_t{1}) != 0;
  a.visible = [&s, window, causal](std::int64_t b, std::int64_t query_row) {
    const std::int64_t end = s.past_of(b) + (causal ? query_row + 1 : s.rows);
    return KeyRange{window > 0 ? end - window : 0, end};
  };
  if (c.has(in_bias)) {
    a.bias = [bias = ScoreBias<float>(c.in(in_bias), a)](std::int64_t b, std::int64_t h, std::int64_t r, KeyRange keys,
                                                         float* scores) { bias.add(b, h, r, keys, scores); };
  }
  Tensor sinks;
  if (c.has(in_sink)) {
    sinks = compute_float(c.in(in_sink), "head_sink");
    require(sinks.count() == s.heads, "head_sink does not have one entry per head");
  } else if (c.attrs().get("smooth_softmax", std::int64_t{-1}) == 1) {
    sinks = Tensor(DType::f32, {s.heads});
  }
  if (sinks) a.sinks = sinks.read<float>().data();
  Tensor y(DType::f32, {s.batch, s.rows, s.heads * s.width});
  a.y = Heads<float*>::by_row(y.write<float>().data(), s.rows, s.heads * s.width, s.width);
  attend(c.threads, a);
  const DType stored = c.in(in_query).dtype();
  c.out(0, narrowed(std::move(y), stored));
  c.out(1, narrowed(std::move(present_key), stored));
  c.out(2, narrowed(std::move(present_value), stored));
}

void infer(InferContext& c) {
  const Type& q = c.in(in_query);
  if (!q.known_dtype) return;
  for (std::size_t i = 0; i < 3; ++i) c.out(i, q.dtype);
  const std::int64_t heads = c.attrs().get("num_heads", std::int64_t{0}),
                     kv_heads = c.attrs().get("kv_num_heads", std::int64_t{0});
  if (!q.known_rank || q.shape.size() != 3 || heads < 1 || kv_heads < 1) return;
  const std::int64_t parts = heads + (c.has(in_key) ? 0 : 2 * kv_heads),
                     width = q.shape[2] < 0 ? -1 : q.shape[2] / parts;
  c.out(0, q.dtype, {q.shape[0], q.shape[1], width < 0 ? -1 : heads * width});
  for (std::size_t i = 1; i < 3; ++i) c.out(i, q.dtype, {q.shape[0], kv_heads, -1, width});
}

}  // namespace

constinit const OpDef ms_GroupQueryAttention{"GroupQueryAttention", "com.microsoft", 1, infer, forward, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// Attention of com.microsoft: one projection to Q, K and V, softmax(Q K^T * scale + mask) V by heads, and the states of
// earlier steps. Letters: B batch, S new positions, P past ones, T = P + S, N heads, H width of a head.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/vector_math.h"

namespace qtool::op {
namespace {

struct Problem {
  std::int64_t batch, length, past, total, heads;
  std::int64_t qk, v;  // widths of one head
  float scale, filtered;
  bool causal;
  std::int64_t width() const { return heads * (2 * qk + v); }  // of a projected position
};

Problem problem_of(const OpContext& c, const Tensor& x, const Tensor& w) {
  require(
      x.rank() == 3 && w.rank() == 2 && w.shape()[0] == x.shape()[2],
      "Attention of an input " + to_string(x.shape()) + " with weights " + to_string(w.shape()) + " is not defined");
  require(c.attrs().get("do_rotary", std::int64_t{0}) == 0 &&
              c.attrs().get("past_present_share_buffer", std::int64_t{0}) == 0,
          "Attention with do_rotary or past_present_share_buffer is not supported");
  Problem p{};
  p.batch = x.shape()[0];
  p.length = x.shape()[1];
  p.heads = c.attrs().get("num_heads", std::int64_t{0});
  require(p.heads > 0, "Attention has no num_heads");
  std::vector<std::int64_t> sizes = c.attrs().get("qkv_hidden_sizes", std::vector<std::int64_t>{});
  if (sizes.empty()) sizes.assign(3, w.shape()[1] / 3);
  require(sizes.size() == 3 && sizes[0] > 0 && sizes[0] == sizes[1] && sizes[2] > 0 && sizes[0] % p.heads == 0 &&
              sizes[2] % p.heads == 0 && sizes[0] + sizes[1] + sizes[2] == w.shape()[1],
          "the widths of Q, K and V do not fit the weights of Attention");
  p.qk = sizes[0] / p.heads;
  p.v = sizes[2] / p.heads;
  if (c.has(4)) {
    const Shape& s = c.in(4).shape();
    require(s.size() == 5 && s[0] == 2 && s[1] == p.batch && s[2] == p.heads && s[4] == p.qk && p.qk == p.v,
            "the past of Attention has the shape " + to_string(s));
    p.past = s[3];
  }
  p.total = p.past + p.length;
  const float scale = c.attrs().get("scale", 0.0F);
  p.scale = scale != 0 ? scale : 1.0F / std::sqrt(static_cast<float>(p.qk));
  p.filtered = c.attrs().get("mask_filter_value", -10000.0F);
  p.causal = c.attrs().get("unidirectional", std::int64_t{0}) != 0;
  return p;
}

/// What is added to the scores, [B, S, T]: zero, or the filter value where the mask hides a position.
std::vector<float> mask_of(const Problem& p, const Tensor& mask) {
  std::vector<float> out(at(p.batch * p.length * p.total), 0.0F);
  if (!mask.empty()) {
    const std::vector<std::int64_t> m = to_int64s(mask);
    const Shape& s = mask.shape();
    const bool lengths = s.size() == 1 && (s[0] == p.batch || s[0] == 2 * p.batch);
    const bool keys = s == Shape{p.batch, p.total}, pairs = s == Shape{p.batch, p.length, p.total};
    require(lengths || keys || pairs, "a mask of shape " + to_string(s) + " is not supported by Attention here");
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(out.size()); ++i) {
      const std::int64_t t = i % p.total, b = i / p.total / p.length;
      bool visible = true;
      if (lengths) {
        visible = t < m[at(b)] && (s[0] == p.batch || t >= m[at(p.batch + b)]);
      } else {
        visible = m[at(keys ? b * p.total + t : i)] > 0;
      }
      if (!visible) out[at(i)] = p.filtered;
    }
  }
  if (p.causal) {
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(out.size()); ++i) {
      const std::int64_t t = i % p.total, s = i / p.total % p.length;
      if (t > p.past + s) out[at(i)] = std::numeric_limits<float>::lowest();
    }
  }
  return out;
}

void softmax_row(float* x, std::int64_t n) {
  float top = x[0];
  for (std::int64_t i = 1; i < n; ++i) top = std::max(top, x[i]);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) x[i] = vector_math::exp(x[i] - top);
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  const auto scale = static_cast<float>(1 / sum);
  for (std::int64_t i = 0; i < n; ++i) x[i] *= scale;
}

void attention(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the input"), w = compute_float(c.in(1), "the weights");
  const Problem p = problem_of(c, x, w);
  const std::int64_t width = p.width(), rows = p.batch * p.length;
  std::vector<float> projected(at(rows * width));
  if (c.has(2)) {
    const Tensor bias = compute_float(c.in(2), "the bias");
    require(bias.count() == width, "the bias of Attention has " + std::to_string(bias.count()) + " entries");
    for (std::int64_t r = 0; r < rows; ++r) std::copy_n(bias.read<float>().data(), width, projected.data() + r * width);
  }
  gemm(c.threads, false, false, rows, width, w.shape()[0], 1.0F, x.read<float>().data(), w.shape()[0],
       w.read<float>().data(), width, c.has(2) ? 1.0F : 0.0F, projected.data(), width);

  const std::vector<float> mask = mask_of(p, c.in(3));
  const Tensor past = c.has(4) ? compute_float(c.in(4), "the past") : Tensor();
  const Tensor extra = c.has(5) ? compute_float(c.in(5), "the attention bias") : Tensor();
  std::int64_t extra_batch = 0, extra_head = 0;
  if (extra) {
    const Shape& s = extra.shape();
    require(s.size() == 4 && (s[0] == p.batch || s[0] == 1) && (s[1] == p.heads || s[1] == 1) && s[2] == p.length &&
                s[3] == p.total,
            "the attention bias has the shape " + to_string(s));
    extra_head = s[1] == 1 ? 0 : p.length * p.total;
    extra_batch = s[0] == 1 ? 0 : s[1] * p.length * p.total;
  }
  const std::int64_t kept = std::max(p.qk, p.v);
  Tensor present(DType::f32, {2, p.batch, p.heads, p.total, kept});
  Tensor y(DType::f32, {p.batch, p.length, p.heads * p.v});
  float *keep = present.write<float>().data(), *to = y.write<float>().data();
  const float* before = past ? past.read<float>().data() : nullptr;
  const float* added = extra ? extra.read<float>().data() : nullptr;
  const std::int64_t all_heads = p.batch * p.heads;
  c.threads.for_each(all_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> scores(at(p.length * p.total));
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t b = i / p.heads, head = i % p.heads;
      const float* q = projected.data() + b * p.length * width + head * p.qk;
      float *k = keep + i * p.total * kept, *v = keep + (all_heads + i) * p.total * kept;
      for (std::int64_t t = 0; t < p.past; ++t) {
        std::copy_n(before + (i * p.past + t) * p.qk, p.qk, k + t * kept);
        std::copy_n(before + ((all_heads + i) * p.past + t) * p.v, p.v, v + t * kept);
      }
      for (std::int64_t s = 0; s < p.length; ++s) {
        const float* row = projected.data() + (b * p.length + s) * width;
        std::copy_n(row + p.heads * p.qk + head * p.qk, p.qk, k + (p.past + s) * kept);
        std::copy_n(row + 2 * p.heads * p.qk + head * p.v, p.v, v + (p.past + s) * kept);
      }
      std::copy_n(mask.data() + b * p.length * p.total, p.length * p.total, scores.data());
      if (added != nullptr) {
        const float* from = added + b * extra_batch + head * extra_head;
        for (std::size_t j = 0; j < scores.size(); ++j) scores[j] += from[j];
      }
      gemm(c.threads, false, true, p.length, p.total, p.qk, p.scale, q, width, k, kept, 1.0F, scores.data(), p.total);
      for (std::int64_t s = 0; s < p.length; ++s) softmax_row(scores.data() + s * p.total, p.total);
      gemm(c.threads, false, false, p.length, p.v, p.total, 1.0F, scores.data(), p.total, v, kept, 0.0F,
           to + b * p.length * p.heads * p.v + head * p.v, p.heads * p.v);
    }
  });
  const DType stored = c.in(0).dtype();
  c.out(0, narrowed(std::move(y), stored));
  if (c.wants(1)) {
    require(p.qk == p.v, "Attention keeps a past only when keys and values have one width");
    c.out(1, narrowed(std::move(present), stored));
  }
}

void infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  Type t = c.in(0);
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
  c.out(1, c.in(0).dtype);
}

}  // namespace

constinit const OpDef ms_Attention{"Attention", "com.microsoft", 1, infer, attention, nullptr};

}  // namespace qtool::op

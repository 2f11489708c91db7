// SPDX-License-Identifier: Apache-2.0
// Layers whose memory has a fixed size: LinearAttention (a matrix per head, updated by every position) and the
// CausalConvWithState before it. Of ai.onnx and com.microsoft, computed in float32.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/rows.h"
#include "calib/ops/vector_math.h"
#include "formats/base/widest.h"

namespace qtool::op {
namespace {

Tensor in_f32(const Tensor& t, const char* what) {
  require(is_float(t.dtype()) && t.dtype() != DType::f64, std::string(what) + " has a type that is not supported here");
  return to_f32(t);
}

// ---- LinearAttention(query, key, value, past_state, decay, beta): per head, with a state S [dk, dv] and at each
// position q, k [dk], v [dv]:  S = e^decay S;  v' = beta (v - S^T k) for the delta rules;  S += k v'^T;  o = scale S^T
// q.

struct Recurrence {
  std::int64_t batch, steps, heads, kv_heads, width, value_width;  // widths of one head
  std::int64_t decays, betas;                                      // entries per position; 0: none
  float scale;
};

Recurrence recurrence_of(const OpContext& c, const Tensor& q, const Tensor& k, const Tensor& v) {
  require(c.attrs().get("state_window", std::int64_t{0}) == 0, "LinearAttention with state_window is not supported");
  Recurrence r{};
  r.heads = c.attrs().get("q_num_heads", std::int64_t{0});
  r.kv_heads = c.attrs().get("kv_num_heads", std::int64_t{0});
  require(r.kv_heads > 0 && r.heads > 0 && r.heads % r.kv_heads == 0,
          "LinearAttention needs q_num_heads that kv_num_heads divides");
  const std::string what = "the shapes " + to_string(q.shape()) + ", " + to_string(k.shape()) + " and " +
                           to_string(v.shape()) + " do not fit in LinearAttention";
  require(q.rank() == 3 && k.rank() == 3 && v.rank() == 3, what);
  r.batch = q.shape()[0];
  r.steps = q.shape()[1];
  r.width = q.shape()[2] / r.heads;
  r.value_width = v.shape()[2] / r.kv_heads;
  require(r.width > 0 && r.value_width > 0 && q.shape()[2] == r.width * r.heads &&
              k.shape() == Shape{r.batch, r.steps, r.width * r.kv_heads} &&
              v.shape() == Shape{r.batch, r.steps, r.value_width * r.kv_heads},
          what);
  const std::string rule = c.attrs().get("update_rule", "gated_delta");
  const bool gated = rule == "gated" || rule == "gated_delta", delta = rule == "delta" || rule == "gated_delta";
  require(gated || delta || rule == "linear", "update_rule has the value \"" + rule + "\"");
  require(c.has(4) == gated && c.has(5) == delta, "decay and beta do not fit the update rule \"" + rule + "\"");
  if (gated) {
    const Shape& s = c.in(4).shape();
    require(s == Shape{r.batch, r.steps, r.kv_heads} || s == Shape{r.batch, r.steps, r.kv_heads * r.width},
            "decay has the shape " + to_string(s));
    r.decays = s[2];
  }
  if (delta) {
    const Shape& s = c.in(5).shape();
    require(s == Shape{r.batch, r.steps, r.kv_heads} || s == Shape{r.batch, r.steps, 1},
            "beta has the shape " + to_string(s));
    r.betas = s[2];
  }
  const float scale = c.attrs().get("scale", 0.0F);
  r.scale = scale != 0 ? scale : 1 / std::sqrt(static_cast<float>(r.width));
  return r;
}

/// sum[j] = sum over i of x[i] * state[i, j].
void read_state(const float* state, const float* x, std::int64_t n, std::int64_t m, float* sum) {
  with_widest_vectors([=]() QTOOL_INLINE {
    std::fill_n(sum, m, 0.0F);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) sum[j] += x[i] * state[i * m + j];
    }
  });
}

void linear_attention(const OpContext& c) {
  const Tensor q = in_f32(c.in(0), "the query"), k = in_f32(c.in(1), "the key"), v = in_f32(c.in(2), "the value");
  const Recurrence r = recurrence_of(c, q, k, v);
  const Shape state_shape{r.batch, r.kv_heads, r.width, r.value_width};
  require(!c.has(3) || c.in(3).shape() == state_shape,
          "the state of LinearAttention has the shape " + to_string(c.in(3).shape()));
  Tensor state = c.has(3) ? in_f32(c.in(3), "the state") : Tensor(DType::f32, state_shape);
  const Tensor decay = c.has(4) ? in_f32(c.in(4), "decay") : Tensor(),
               beta = c.has(5) ? in_f32(c.in(5), "beta") : Tensor();
  Tensor y(DType::f32, {r.batch, r.steps, r.heads * r.value_width});
  const float *qs = q.read<float>().data(), *ks = k.read<float>().data(), *vs = v.read<float>().data(),
              *decays = decay ? decay.read<float>().data() : nullptr,
              *betas = beta ? beta.read<float>().data() : nullptr;
  float *states = state.write<float>().data(), *ys = y.write<float>().data();
  const std::int64_t group = r.heads / r.kv_heads, n = r.width, m = r.value_width;
  c.threads.for_each(r.batch * r.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> written(at(m));
    float* w = written.data();
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t head = i % r.kv_heads;
      float* s = states + i * n * m;
      for (std::int64_t t = 0; t < r.steps; ++t) {
        const std::int64_t row = i / r.kv_heads * r.steps + t;
        const float *key = ks + (row * r.kv_heads + head) * n, *value = vs + (row * r.kv_heads + head) * m;
        for (std::int64_t d = 0; r.decays > 0 && d < n; ++d) {
          const bool one = r.decays == r.kv_heads;  // for the whole head
          const float keep = std::exp(decays[row * r.decays + (one ? head : head * n + d)]);
          for (std::int64_t j = 0; j < m; ++j) s[d * m + j] *= keep;
        }
        if (r.betas > 0) {
          read_state(s, key, n, m, w);
          const float rate = betas[row * r.betas + (r.betas == 1 ? 0 : head)];
          for (std::int64_t j = 0; j < m; ++j) w[j] = rate * (value[j] - w[j]);
        } else {
          std::copy_n(value, m, w);
        }
        with_widest_vectors([=]() QTOOL_INLINE {
          for (std::int64_t d = 0; d < n; ++d) {
            for (std::int64_t j = 0; j < m; ++j) s[d * m + j] += key[d] * w[j];
          }
        });
        for (std::int64_t g = 0; g < group; ++g) {
          float* out = ys + (row * r.heads + head * group + g) * m;
          read_state(s, qs + (row * r.heads + head * group + g) * n, n, m, out);
          for (std::int64_t j = 0; j < m; ++j) out[j] *= r.scale;
        }
      }
    }
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
  c.out(1, narrowed(std::move(state), c.has(3) ? c.in(3).dtype() : c.in(0).dtype()));
}

void linear_attention_infer(InferContext& c) {
  const Type &q = c.in(0), &v = c.in(2);
  if (!q.known_dtype) return;
  const Type& before = c.in(3);
  const bool state_known = !c.has(3) || before.known_dtype;
  const DType state_type = c.has(3) ? before.dtype : q.dtype;
  c.out(0, q.dtype);
  if (state_known) c.out(1, state_type);
  const std::int64_t heads = c.attrs().get("q_num_heads", std::int64_t{0}),
                     kv_heads = c.attrs().get("kv_num_heads", std::int64_t{0});
  if (!q.known_rank || !v.known_rank || q.shape.size() != 3 || v.shape.size() != 3 || heads < 1 || kv_heads < 1) return;
  const std::int64_t width = q.shape[2] < 0 ? -1 : q.shape[2] / heads,
                     value_width = v.shape[2] < 0 ? -1 : v.shape[2] / kv_heads;
  c.out(0, q.dtype, {q.shape[0], q.shape[1], value_width < 0 ? -1 : heads * value_width});
  if (state_known) c.out(1, state_type, {q.shape[0], kv_heads, width, value_width});
}

// ---- CausalConvWithState(input [B, C, L], weight [C, 1, K], bias, past_state [B, C, (K - 1) dilation])

void causal_conv(const OpContext& c) {
  const Attrs& attrs = c.attrs();
  require(attrs.get("ndim", std::int64_t{1}) == 1 && attrs.get("channels_last", std::int64_t{0}) == 0 &&
              attrs.get("state_window", std::int64_t{0}) == 0,
          "CausalConvWithState with ndim, channels_last or state_window is not supported");
  const std::string activation = attrs.get("activation", "none");
  require(activation == "none" || activation == "silu" || activation == "swish",
          "activation has the value \"" + activation + "\"");
  const Tensor x = in_f32(c.in(0), "the input"), w = in_f32(c.in(1), "the kernel");
  require(x.rank() == 3 && w.rank() == 3 && w.shape()[0] == x.shape()[1] && w.shape()[1] == 1 && w.shape()[2] > 0,
          "the shapes " + to_string(x.shape()) + " and " + to_string(w.shape()) + " do not fit in CausalConvWithState");
  const std::int64_t batch = x.shape()[0], channels = x.shape()[1], length = x.shape()[2], taps = w.shape()[2];
  const std::int64_t dilation = attrs.get("dilation", std::int64_t{1});
  require(dilation > 0 && dilation <= 1 << 20 && taps <= 1 << 20,
          "the dilation of CausalConvWithState is out of range");
  const std::int64_t before = (taps - 1) * dilation;
  const Tensor bias = c.has(2) ? in_f32(c.in(2), "the bias") : Tensor(),
               past = c.has(3) ? in_f32(c.in(3), "the state") : Tensor();
  require(!bias || bias.count() == channels, "the bias does not have one entry per channel");
  require(!past || past.shape() == Shape{batch, channels, before},
          "the state of CausalConvWithState has the shape " + to_string(past.shape()));
  Tensor y(DType::f32, x.shape()), present(DType::f32, {batch, channels, before});
  const float *from = x.read<float>().data(), *kernel = w.read<float>().data();
  float *to = y.write<float>().data(), *kept = present.write<float>().data();
  for_rows(c.threads, batch * channels, length * taps, [&](std::int64_t row) {
    std::vector<float> padded(at(before + length), 0.0F);
    if (past) std::copy_n(past.read<float>().data() + row * before, before, padded.data());
    std::copy_n(from + row * length, length, padded.data() + before);
    const std::int64_t channel = row % channels;
    float* out = to + row * length;
    const float *p = padded.data(), *k = kernel + channel * taps;
    const float start = bias ? bias.read<float>()[at(channel)] : 0.0F;
    const bool gate = activation != "none";
    with_widest_vectors([=]() QTOOL_INLINE {
      std::fill_n(out, length, start);
      for (std::int64_t j = 0; j < taps; ++j) {
        for (std::int64_t t = 0; t < length; ++t) out[t] += k[j] * p[t + j * dilation];
      }
      for (std::int64_t t = 0; gate && t < length; ++t) out[t] *= vector_math::logistic(out[t]);
    });
    std::copy_n(p + length, before, kept + row * before);
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
  c.out(1, narrowed(std::move(present), c.in(0).dtype()));
}

void causal_conv_infer(InferContext& c) {
  const Type &x = c.in(0), &w = c.in(1);
  if (!x.known_dtype) return;
  c.out(0, x);
  c.out(1, x.dtype);
  if (!x.known_rank || !w.known_rank || x.shape.size() != 3 || w.shape.size() != 3) return;
  const std::int64_t dilation = c.attrs().get("dilation", std::int64_t{1});
  c.out(1, x.dtype, {x.shape[0], x.shape[1], w.shape[2] < 1 ? -1 : (w.shape[2] - 1) * dilation});
}

}  // namespace

constinit const OpDef CausalConvWithState{"CausalConvWithState", "", 27, causal_conv_infer, causal_conv, nullptr};
constinit const OpDef LinearAttention{"LinearAttention", "", 27, linear_attention_infer, linear_attention, nullptr};
constinit const OpDef ms_CausalConvWithState{"CausalConvWithState", "com.microsoft", 1,
                                             causal_conv_infer,     causal_conv,     nullptr};
constinit const OpDef ms_LinearAttention{"LinearAttention",      "com.microsoft",  1,
                                         linear_attention_infer, linear_attention, nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// LSTM, GRU and RNN. The input's share of the gates is one product for the whole sequence; the state's share is one
// product per step. DynamicQuantizeLSTM of com.microsoft: the same with 8-bit weights, and operands quantized as they
// come.
#include "calib/ops/recurrent.h"

#include <algorithm>
#include <vector>

namespace qtool::op {
namespace {

struct Results {
  Tensor y, y_h, y_c;  // y [steps, directions, batch, hidden]; the others [directions, batch, hidden]
};

/// The state as ONNX Runtime quantizes it: sequences that ended before the last step count as zeros.
const float* still_running(const Cell& k, std::int64_t t, const std::vector<float>& h, std::vector<float>& copy) {
  copy = h;
  for (std::int64_t row = 0; row < k.batch; ++row) {
    if (k.lengths[at(row)] < t) std::fill_n(copy.data() + row * k.hidden, k.hidden, 0.0F);
  }
  return copy.data();
}

/// The biases of R, or zeros.
std::vector<float> recurrent_bias(const Cell& k, std::int64_t d) {
  const std::int64_t width = k.gates * k.hidden;
  std::vector<float> bias(at(width), 0.0F);
  if (const float* all = k.bias(d)) std::copy_n(all + width, width, bias.data());
  return bias;
}

/// The walk of usual cells. one(x, share, row, y) takes one row through its gates.
template <class F>
void walk_usual(const OpContext& ctx, const Cell& k, std::int64_t d, Walker& s, float* y, F&& one) {
  const std::int64_t n = k.hidden, width = k.gates * n;
  for (std::int64_t t = 0; t < k.steps; ++t) {
    s.step = t;
    multiply_recurrence(ctx, k, d, 0, k.gates, s.h.data(), s);
    for (std::int64_t row = 0; row < k.batch; ++row) {
      const std::int64_t where = position(k, d, t, row);
      if (where < 0) continue;
      one(s.projected.data() + (where * k.batch + row) * width, s.share.data() + row * width, row,
          y + ((where * k.directions + d) * k.batch + row) * n);
    }
  }
}

void lstm_direction(const OpContext& ctx, const Cell& k, std::int64_t d, bool couple, float* y, float* y_h,
                    float* y_c) {
  Walker s = start(ctx, k, d);
  const std::int64_t n = k.hidden, width = 4 * n;
  const float* peep = k.p ? k.p.read<float>().data() + d * 3 * n : nullptr;  // input, output, forget
  const Activation &f = k.activation(d, 0), &g = k.activation(d, 1), &out = k.activation(d, 2);
  std::vector<float> squashed(at(n)), running;
  const bool usual = k.usual && !couple && k.r_codes.empty();
  if (usual) {
    walk_usual(ctx, k, d, s, y,
               [&, b = recurrent_bias(k, d)](const float* x, const float* share, std::int64_t row, float* to) {
                 usual_lstm_row(x, share, b.data(), n, s.c.data() + row * n, s.h.data() + row * n, to);
               });
  }
  for (std::int64_t t = 0; t < k.steps && !usual; ++t) {
    load_step(k, d, t, s);
    add_recurrence(ctx, k, s, d, 0, 4, k.r_codes.empty() ? s.h.data() : still_running(k, t, s.h, running), s.z.data(),
                   width);
    for (std::int64_t row = 0; row < k.batch; ++row) {
      const std::int64_t where = position(k, d, t, row);
      if (where < 0) continue;
      float *z = s.z.data() + row * width, *c = s.c.data() + row * n, *h = s.h.data() + row * n;
      float *i = z, *o = z + n, *forget = z + 2 * n, *candidate = z + 3 * n;
      if (peep != nullptr) {
        for (std::int64_t j = 0; j < n; ++j) i[j] += peep[j] * c[j];
        for (std::int64_t j = 0; j < n; ++j) forget[j] += peep[2 * n + j] * c[j];
      }
      k.clamp(i, n);
      k.clamp(forget, 2 * n);
      f(i, n);
      if (couple) {
        for (std::int64_t j = 0; j < n; ++j) forget[j] = 1 - i[j];
      } else {
        f(forget, n);
      }
      g(candidate, n);
      for (std::int64_t j = 0; j < n; ++j) c[j] = forget[j] * c[j] + i[j] * candidate[j];
      if (peep != nullptr) {
        for (std::int64_t j = 0; j < n; ++j) o[j] += peep[n + j] * c[j];
      }
      k.clamp(o, n);
      f(o, n);
      std::copy_n(c, n, squashed.data());
      out(squashed.data(), n);
      for (std::int64_t j = 0; j < n; ++j) h[j] = o[j] * squashed[at(j)];
      std::copy_n(h, n, y + ((where * k.directions + d) * k.batch + row) * n);
    }
  }
  std::copy(s.h.begin(), s.h.end(), y_h + d * k.batch * n);
  std::copy(s.c.begin(), s.c.end(), y_c + d * k.batch * n);
}

void gru_direction(const OpContext& ctx, const Cell& k, std::int64_t d, bool reset_last, float* y, float* y_h) {
  Walker s = start(ctx, k, d);
  const std::int64_t n = k.hidden, width = 3 * n;
  const Activation &f = k.activation(d, 0), &g = k.activation(d, 1);
  std::vector<float> recurrent(at(k.batch * n)), gated(at(k.batch * n));  // the state's share of the candidate
  const bool usual = k.usual && reset_last;
  if (usual) {
    walk_usual(ctx, k, d, s, y,
               [&, b = recurrent_bias(k, d)](const float* x, const float* share, std::int64_t row, float* to) {
                 usual_gru_row(x, share, b.data(), n, s.h.data() + row * n, to);
               });
  }
  for (std::int64_t t = 0; t < k.steps && !usual; ++t) {
    load_step(k, d, t, s);
    add_recurrence(ctx, k, s, d, 0, 2, s.h.data(), s.z.data(), width);
    for (std::int64_t row = 0; row < k.batch; ++row) {
      float* z = s.z.data() + row * width;
      k.clamp(z, 2 * n);
      f(z, 2 * n);
      for (std::int64_t j = 0; j < n; ++j) gated[at(row * n + j)] = z[n + j] * s.h[at(row * n + j)];
    }
    std::fill(recurrent.begin(), recurrent.end(), 0.0F);
    add_recurrence(ctx, k, s, d, 2, 1, reset_last ? s.h.data() : gated.data(), recurrent.data(), n);
    for (std::int64_t row = 0; row < k.batch; ++row) {
      const std::int64_t where = position(k, d, t, row);
      if (where < 0) continue;
      float *z = s.z.data() + row * width, *h = s.h.data() + row * n;
      const float *reset = z + n, *share = recurrent.data() + row * n;
      float* candidate = z + 2 * n;
      for (std::int64_t j = 0; j < n; ++j) candidate[j] += reset_last ? reset[j] * share[j] : share[j];
      k.clamp(candidate, n);
      g(candidate, n);
      for (std::int64_t j = 0; j < n; ++j) h[j] = (1 - z[j]) * candidate[j] + z[j] * h[j];
      std::copy_n(h, n, y + ((where * k.directions + d) * k.batch + row) * n);
    }
  }
  std::copy(s.h.begin(), s.h.end(), y_h + d * k.batch * n);
}

void rnn_direction(const OpContext& ctx, const Cell& k, std::int64_t d, float* y, float* y_h) {
  Walker s = start(ctx, k, d);
  const std::int64_t n = k.hidden;
  for (std::int64_t t = 0; t < k.steps; ++t) {
    load_step(k, d, t, s);
    add_recurrence(ctx, k, s, d, 0, 1, s.h.data(), s.z.data(), n);
    for (std::int64_t row = 0; row < k.batch; ++row) {
      const std::int64_t where = position(k, d, t, row);
      if (where < 0) continue;
      float *z = s.z.data() + row * n, *h = s.h.data() + row * n;
      k.clamp(z, n);
      k.activation(d, 0)(z, n);
      std::copy_n(z, n, h);
      std::copy_n(h, n, y + ((where * k.directions + d) * k.batch + row) * n);
    }
  }
  std::copy(s.h.begin(), s.h.end(), y_h + d * k.batch * n);
}

template <class F>
void run(const OpContext& ctx, const Cell& k, F&& direction) {
  Results r{Tensor(DType::f32, {k.steps, k.directions, k.batch, k.hidden}),
            Tensor(DType::f32, {k.directions, k.batch, k.hidden}),
            Tensor(DType::f32, {k.directions, k.batch, k.hidden})};
  float *y = r.y.write<float>().data(), *y_h = r.y_h.write<float>().data(), *y_c = r.y_c.write<float>().data();
  if (k.directions == 1) {
    direction(0, y, y_h, y_c);
  } else {
    ctx.threads.for_each(k.directions, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t d = begin; d < end; ++d) direction(d, y, y_h, y_c);
    });
  }
  if (batch_first(ctx.attrs())) {
    // [steps, directions, batch, hidden] to [batch, steps, directions, hidden]: rows of (steps*directions) and batch.
    r.y = swap_first_two(r.y.reshaped({k.steps * k.directions, k.batch, k.hidden}))
              .reshaped({k.batch, k.steps, k.directions, k.hidden});
    r.y_h = swap_first_two(r.y_h);
    r.y_c = swap_first_two(r.y_c);
  }
  const DType stored = ctx.in(0).dtype();
  ctx.out(0, narrowed(std::move(r.y), stored));
  ctx.out(1, narrowed(std::move(r.y_h), stored));
  ctx.out(2, narrowed(std::move(r.y_c), stored));
}

/// One direction of the node that `k` was made of.
void walk_direction(const OpContext& ctx, const Cell& k, std::int64_t d, float* y, float* y_h, float* y_c) {
  if (k.gates == 4)
    return lstm_direction(ctx, k, d, ctx.attrs().get("input_forget", std::int64_t{0}) != 0, y, y_h, y_c);
  if (k.gates == 3)
    return gru_direction(ctx, k, d, ctx.attrs().get("linear_before_reset", std::int64_t{0}) != 0, y, y_h);
  rnn_direction(ctx, k, d, y, y_h);
}

/// With the activations that are the default for so many gates.
Cell usual_cell(const OpContext& ctx, std::int64_t gates, bool quantized = false) {
  if (gates == 4) return cell_of(ctx, gates, {"Sigmoid", "Tanh", "Tanh"}, quantized);
  return gates == 3 ? cell_of(ctx, gates, {"Sigmoid", "Tanh"}) : cell_of(ctx, gates, {"Tanh"});
}

template <std::int64_t gates, bool quantized = false>
void forward(const OpContext& ctx) {
  const Cell k = usual_cell(ctx, gates, quantized);
  run(ctx, k, [&](std::int64_t d, float* y, float* y_h, float* y_c) { walk_direction(ctx, k, d, y, y_h, y_c); });
}

void infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  const DType dtype = c.in(0).dtype;
  const std::int64_t directions = c.attrs().get("direction", "forward") == std::string("bidirectional") ? 2 : 1;
  std::int64_t steps = -1, batch = -1, hidden = c.attrs().get("hidden_size", std::int64_t{-1});
  if (hidden < 0 && c.in(2).known_rank && c.in(2).shape.size() == 3) {
    hidden = c.in(2).shape[c.node.op == "DynamicQuantizeLSTM" ? 1 : 2];
  }
  const bool first = batch_first(c.attrs());
  if (c.in(0).known_rank && c.in(0).shape.size() == 3) {
    steps = c.in(0).shape[first ? 1 : 0];
    batch = c.in(0).shape[first ? 0 : 1];
  }
  c.out(0, dtype, first ? Shape{batch, steps, directions, hidden} : Shape{steps, directions, batch, hidden});
  const Shape state = first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden};
  c.out(1, dtype, state);
  c.out(2, dtype, state);
}

}  // namespace

void for_each_state(const Node& node, std::span<const Tensor> inputs, std::int64_t d, Threads& threads,
                    const SeeState& see) {
  std::vector<Tensor> outputs;
  const std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)> no_bodies;
  const OpContext ctx{node, newest_opset, inputs, outputs, threads, no_bodies};
  Cell k = usual_cell(ctx, node.op == "LSTM" ? 4 : node.op == "GRU" ? 3 : 1);
  k.see = &see;
  std::vector<float> y(at(k.steps * k.directions * k.batch * k.hidden)), y_h(at(k.directions * k.batch * k.hidden)),
      y_c(y_h);
  walk_direction(ctx, k, d, y.data(), y_h.data(), y_c.data());
}

constinit const OpDef GRU{"GRU", "", 1, infer, forward<3>, gru_backward, recurrent_prepares};
constinit const OpDef LSTM{"LSTM", "", 1, infer, forward<4>, lstm_backward, recurrent_prepares};
constinit const OpDef RNN{"RNN", "", 1, infer, forward<1>, rnn_backward, recurrent_prepares};

constinit const OpDef ms_DynamicQuantizeLSTM{"DynamicQuantizeLSTM", "com.microsoft", 1, infer,
                                             forward<4, true>,      nullptr};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// Gradients of LSTM, GRU and RNN: the sequence is run again with what each step saw, then walked back (backpropagation
// through time). Gradients before the activations are gathered by position, so that those of the weights are one
// product each.
#include <algorithm>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/ops/recurrent.h"

namespace qtool::op {
namespace {

/// Rows [steps, batch, width], by step of the walk or by position in the sequence.
struct Rows {
  std::vector<float> data;
  std::int64_t batch = 0, width = 0;

  Rows(const Cell& k, std::int64_t width_)
      : data(at(k.steps * k.batch * width_), 0.0F), batch(k.batch), width(width_) {}
  float* at_row(std::int64_t t, std::int64_t row) { return data.data() + (t * batch + row) * width; }
};

/// One direction of one node.
struct Tape {
  Rows gates, before, cell_before, cell;  // by step: activated gates, states before, cells before and after
  Rows share;                             // by step, GRU with linear_before_reset: the state's share of the candidate
  Rows input_side, state_side;            // by position: gradients before the activations, as X W^T and H R^T see them
  Rows state, gated;                      // by position: what R multiplied; what the candidate of a GRU multiplied
  std::vector<float> dh, dc;              // [batch, hidden]: of the state that the walk back has reached

  explicit Tape(const Cell& k)
      : gates(k, k.gates * k.hidden),
        before(k, k.hidden),
        cell_before(k, k.gates == 4 ? k.hidden : 0),
        cell(k, k.gates == 4 ? k.hidden : 0),
        share(k, k.gates == 3 ? k.hidden : 0),
        input_side(k, k.gates * k.hidden),
        state_side(k, k.gates * k.hidden),
        state(k, k.hidden),
        gated(k, k.gates == 3 ? k.hidden : 0),
        dh(at(k.batch * k.hidden), 0.0F),
        dc(dh) {}
};

/// What the way back needs of a node, in [steps, directions, batch, hidden] and [directions, batch, hidden].
struct Job {
  const OpContext& ctx;
  const Cell& k;
  bool reset_last;  // of GRU: linear_before_reset
  Tensor dy, dy_h, dy_c;

  const float* dy_at(std::int64_t position, std::int64_t d, std::int64_t row) const {
    return dy ? dy.read<float>().data() + ((position * k.directions + d) * k.batch + row) * k.hidden : nullptr;
  }
};

/// to[rows, in] += from[rows, count gates] R, for `count` gates from `first` on.
void through_r(const Job& j, std::int64_t d, std::int64_t first, std::int64_t count, const float* from, std::int64_t ld,
               float* to) {
  const std::int64_t n = j.k.hidden;
  gemm(j.ctx.threads, false, false, j.k.batch, n, count * n, 1.0F, from, ld,
       j.k.r.read<float>().data() + (d * j.k.gates + first) * n * n, n, 1.0F, to, n);
}

// ---- the way there

void forward_step(const Job& j, std::int64_t d, std::int64_t t, Walker& s, Tape& tape) {
  const Cell& k = j.k;
  const std::int64_t n = k.hidden, width = k.gates * n;
  load_step(k, d, t, s);
  std::vector<float> share(at(k.batch * n), 0.0F), gated(at(k.batch * n), 0.0F);
  add_recurrence(j.ctx, k, s, d, 0, k.gates == 3 ? 2 : k.gates, s.h.data(), s.z.data(), width);
  if (k.gates == 3) {
    for (std::int64_t row = 0; row < k.batch; ++row) {
      float* z = s.z.data() + row * width;
      k.activation(d, 0)(z, 2 * n);
      for (std::int64_t i = 0; i < n; ++i) gated[at(row * n + i)] = z[n + i] * s.h[at(row * n + i)];
    }
    add_recurrence(j.ctx, k, s, d, 2, 1, j.reset_last ? s.h.data() : gated.data(), share.data(), n);
  }
  for (std::int64_t row = 0; row < k.batch; ++row) {
    const std::int64_t where = position(k, d, t, row);
    if (where < 0) continue;
    float *z = s.z.data() + row * width, *h = s.h.data() + row * n, *c = s.c.data() + row * n;
    std::copy_n(h, n, tape.before.at_row(t, row));
    std::copy_n(h, n, tape.state.at_row(where, row));
    if (k.gates == 4) {
      k.activation(d, 0)(z, 3 * n);
      k.activation(d, 1)(z + 3 * n, n);
      std::copy_n(c, n, tape.cell_before.at_row(t, row));
      for (std::int64_t i = 0; i < n; ++i) c[i] = z[2 * n + i] * c[i] + z[i] * z[3 * n + i];
      std::copy_n(c, n, h);
      k.activation(d, 2)(h, n);
      std::copy_n(h, n, tape.cell.at_row(t, row));  // tanh of the cell
      for (std::int64_t i = 0; i < n; ++i) h[i] *= z[n + i];
    } else if (k.gates == 3) {
      const float* from = share.data() + row * n;
      std::copy_n(from, n, tape.share.at_row(t, row));
      std::copy_n(gated.data() + row * n, n, tape.gated.at_row(where, row));
      for (std::int64_t i = 0; i < n; ++i) z[2 * n + i] += j.reset_last ? z[n + i] * from[i] : from[i];
      k.activation(d, 1)(z + 2 * n, n);
      for (std::int64_t i = 0; i < n; ++i) h[i] = (1 - z[i]) * z[2 * n + i] + z[i] * h[i];
    } else {
      k.activation(d, 0)(z, n);
      std::copy_n(z, n, h);
    }
    std::copy_n(z, width, tape.gates.at_row(t, row));
  }
}

// ---- the way back: each fills dz, the gradients before the activations, and turns dh into its direct part

void lstm_row(std::int64_t n, const float* z, const float* squashed, const float* cell_before, float* dh, float* dc,
              float* dz) {
  const float *in = z, *out = z + n, *forget = z + 2 * n, *candidate = z + 3 * n;
  for (std::int64_t i = 0; i < n; ++i) {
    const float d_cell = dc[i] + dh[i] * out[i] * (1 - squashed[i] * squashed[i]);
    dz[i] = d_cell * candidate[i] * in[i] * (1 - in[i]);
    dz[n + i] = dh[i] * squashed[i] * out[i] * (1 - out[i]);
    dz[2 * n + i] = d_cell * cell_before[i] * forget[i] * (1 - forget[i]);
    dz[3 * n + i] = d_cell * in[i] * (1 - candidate[i] * candidate[i]);
    dc[i] = d_cell * forget[i];
    dh[i] = 0;
  }
}

/// Update gate and candidate; the reset gate needs what comes back through R first, unless it is applied last.
void gru_row(std::int64_t n, const float* z, const float* before, float* dh, float* dz) {
  const float *update = z, *candidate = z + 2 * n;
  for (std::int64_t i = 0; i < n; ++i) {
    dz[i] = dh[i] * (before[i] - candidate[i]) * update[i] * (1 - update[i]);
    dz[2 * n + i] = dh[i] * (1 - update[i]) * (1 - candidate[i] * candidate[i]);
    dh[i] *= update[i];
  }
}

void backward_step(const Job& j, std::int64_t d, std::int64_t t, Tape& tape) {
  const Cell& k = j.k;
  const std::int64_t n = k.hidden, width = k.gates * n;
  std::vector<float> input_side(at(k.batch * width), 0.0F);
  const auto active = [&](auto&& f) {
    for (std::int64_t row = 0; row < k.batch; ++row) {
      const std::int64_t where = position(k, d, t, row);
      if (where >= 0)
        f(row, where, tape.gates.at_row(t, row), input_side.data() + row * width, tape.dh.data() + row * n);
    }
  };
  active([&](std::int64_t row, std::int64_t where, const float* z, float* dz, float* dh) {
    const float* from = j.dy_at(where, d, row);
    for (std::int64_t i = 0; from != nullptr && i < n; ++i) dh[i] += from[i];
    if (k.gates == 4) {
      lstm_row(n, z, tape.cell.at_row(t, row), tape.cell_before.at_row(t, row), dh, tape.dc.data() + row * n, dz);
    } else if (k.gates == 3) {
      gru_row(n, z, tape.before.at_row(t, row), dh, dz);
    } else {
      for (std::int64_t i = 0; i < n; ++i) {
        dz[i] = dh[i] * (1 - z[i] * z[i]);
        dh[i] = 0;
      }
    }
  });
  std::vector<float> state_side = input_side;
  if (k.gates == 3) {
    std::vector<float> through(at(k.batch * n), 0.0F);  // to reset * state
    if (!j.reset_last) through_r(j, d, 2, 1, input_side.data() + 2 * n, width, through.data());
    active([&](std::int64_t row, std::int64_t, const float* z, float* dz, float* dh) {
      const float *reset = z + n, *before = tape.before.at_row(t, row), *share = tape.share.at_row(t, row);
      float* to_state = state_side.data() + row * width;
      for (std::int64_t i = 0; i < n; ++i) {
        const float gradient = j.reset_last ? dz[2 * n + i] * share[i] : through[at(row * n + i)] * before[i];
        to_state[n + i] = dz[n + i] = gradient * reset[i] * (1 - reset[i]);
        if (j.reset_last) to_state[2 * n + i] = dz[2 * n + i] * reset[i];
        if (!j.reset_last) dh[i] += through[at(row * n + i)] * reset[i];
      }
    });
  }
  through_r(j, d, 0, k.gates == 3 && !j.reset_last ? 2 : k.gates, state_side.data(), width, tape.dh.data());
  active([&](std::int64_t row, std::int64_t where, const float*, const float* dz, const float*) {
    std::copy_n(dz, width, tape.input_side.at_row(where, row));
    std::copy_n(state_side.data() + row * width, width, tape.state_side.at_row(where, row));
  });
}

/// Gradients of the operands, in the layout of the cell.
struct Gradients {
  Tensor x, w, r, b, h, c;
};

void finish(const Job& j, std::int64_t d, Tape& tape, Gradients& g) {
  const Cell& k = j.k;
  const std::int64_t n = k.hidden, width = k.gates * n, rows = k.steps * k.batch;
  Threads& threads = j.ctx.threads;
  const float* dz = tape.input_side.data.data();
  gemm(threads, false, false, rows, k.inputs, width, 1.0F, dz, width, k.w.read<float>().data() + d * width * k.inputs,
       k.inputs, 1.0F, g.x.write<float>().data(), k.inputs);
  gemm(threads, true, false, width, k.inputs, rows, 1.0F, dz, width, k.x.read<float>().data(), k.inputs, 0.0F,
       g.w.write<float>().data() + d * width * k.inputs, k.inputs);
  // The candidate of a GRU multiplied the gated state, the other gates the state itself.
  const std::int64_t plain = k.gates == 3 && !j.reset_last ? 2 : k.gates;
  float* dr = g.r.write<float>().data() + d * width * n;
  gemm(threads, true, false, plain * n, n, rows, 1.0F, tape.state_side.data.data(), width, tape.state.data.data(), n,
       0.0F, dr, n);
  if (plain < k.gates) {
    gemm(threads, true, false, n, n, rows, 1.0F, tape.state_side.data.data() + plain * n, width, tape.gated.data.data(),
         n, 0.0F, dr + plain * n * n, n);
  }
  float* db = g.b.write<float>().data() + d * 2 * width;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < width; ++i) {
      db[i] += dz[r * width + i];
      db[width + i] += tape.state_side.data[at(r * width + i)];
    }
  }
  std::copy(tape.dh.begin(), tape.dh.end(), g.h.write<float>().data() + d * k.batch * n);
  std::copy(tape.dc.begin(), tape.dc.end(), g.c.write<float>().data() + d * k.batch * n);
}

void require_plain(const Attrs& attrs, const Cell& k, const std::vector<std::string>& names) {
  const std::vector<std::string> given = attrs.get("activations", std::vector<std::string>{});
  bool same = true;
  for (std::size_t i = 0; i < given.size(); ++i) same = same && given[i] == names[i % names.size()];
  require(same && !k.p && k.clip <= 0 && attrs.get("input_forget", std::int64_t{0}) == 0,
          "there are no gradients of recurrent layers with other activations, peepholes, clip or input_forget");
}

void backward(BackwardContext& c, std::int64_t gates, const std::vector<std::string>& names) {
  const std::function<std::vector<Tensor>(const Graph&, std::vector<Tensor>)> no_bodies;
  std::vector<Tensor> nothing;
  const OpContext ctx{c.node, c.opset, c.inputs, nothing, c.threads, no_bodies};
  const Cell k = cell_of(ctx, gates, names);
  require_plain(c.attrs(), k, names);
  const bool first = batch_first(c.attrs());
  const auto asked = [&](std::size_t i) { return i < c.output_gradients.size() ? c.grad(i) : Tensor(); };
  Job j{ctx, k, c.attrs().get("linear_before_reset", std::int64_t{0}) != 0, asked(0), asked(1), asked(2)};
  if (first) {
    if (j.dy) {
      j.dy = swap_first_two(j.dy.reshaped({k.batch, k.steps * k.directions, k.hidden}))
                 .reshaped({k.steps, k.directions, k.batch, k.hidden});
    }
    j.dy_h = swap_first_two(j.dy_h);
    j.dy_c = swap_first_two(j.dy_c);
  }
  const Shape state{k.directions, k.batch, k.hidden};
  Gradients g{Tensor(DType::f32, k.x.shape()), Tensor(DType::f32, k.w.shape()),
              Tensor(DType::f32, k.r.shape()), Tensor(DType::f32, {k.directions, 2 * gates * k.hidden}),
              Tensor(DType::f32, state),       Tensor(DType::f32, state)};
  for (std::int64_t d = 0; d < k.directions; ++d) {
    Tape tape(k);
    Walker s = start(ctx, k, d);
    for (std::int64_t t = 0; t < k.steps; ++t) forward_step(j, d, t, s, tape);
    const std::int64_t size = k.batch * k.hidden;
    if (j.dy_h) std::copy_n(j.dy_h.read<float>().data() + d * size, size, tape.dh.data());
    if (j.dy_c) std::copy_n(j.dy_c.read<float>().data() + d * size, size, tape.dc.data());
    for (std::int64_t t = k.steps; t-- > 0;) backward_step(j, d, t, tape);
    finish(j, d, tape, g);
  }
  const auto give = [&](std::size_t i, Tensor t, bool swapped) {
    if (c.wants(i)) c.input_gradients[i] = swapped ? swap_first_two(t) : std::move(t);
  };
  give(0, std::move(g.x), first);
  give(1, std::move(g.w), false);
  give(2, std::move(g.r), false);
  give(3, std::move(g.b), false);
  give(5, std::move(g.h), first);
  if (gates == 4) give(6, std::move(g.c), first);
}

}  // namespace

void lstm_backward(BackwardContext& c) { backward(c, 4, {"Sigmoid", "Tanh", "Tanh"}); }
void gru_backward(BackwardContext& c) { backward(c, 3, {"Sigmoid", "Tanh"}); }
void rnn_backward(BackwardContext& c) { backward(c, 1, {"Tanh"}); }

}  // namespace qtool::op

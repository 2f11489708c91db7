// SPDX-License-Identifier: Apache-2.0
// LSTM, GRU and RNN. The input's share of the gates is one product for the whole sequence; the state's share is one
// product per step. Letters as in the standard: X input, H state, C cell, W, R weights, P peepholes, B biases.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/vector_math.h"
#include "calib/ops/widest.h"

namespace qtool::op {
namespace {

/// An activation over an array, in place.
using Activation = std::function<void(float*, std::int64_t)>;

template <class F>
Activation each(F f) {
  return [f](float* x, std::int64_t n) {
    with_widest_vectors([=]() QTOOL_INLINE {
      for (std::int64_t i = 0; i < n; ++i) x[i] = f(x[i]);
    });
  };
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
  return text;
}

/// `alpha`, `beta`: as given, or null for the activation's own default.
Activation activation_of(const std::string& name, const float* alpha, const float* beta) {
  const auto a = [alpha](float otherwise) { return alpha != nullptr ? *alpha : otherwise; };
  const auto b = [beta](float otherwise) { return beta != nullptr ? *beta : otherwise; };
  const std::string n = lower(name);
  if (n == "sigmoid") return each([](float x) { return vector_math::logistic(x); });
  if (n == "tanh") return each([](float x) { return vector_math::tanh(x); });
  if (n == "relu") return each([](float x) { return x > 0 ? x : 0.0F; });
  if (n == "affine") return each([p = a(1), q = b(0)](float x) { return p * x + q; });
  if (n == "leakyrelu") return each([p = a(0.01F)](float x) { return x >= 0 ? x : p * x; });
  if (n == "thresholdedrelu") return each([p = a(1)](float x) { return x >= p ? x : 0.0F; });
  if (n == "scaledtanh") return each([p = a(1), q = b(1)](float x) { return p * std::tanh(q * x); });
  if (n == "hardsigmoid")
    return each([p = a(0.2F), q = b(0.5F)](float x) { return std::clamp(p * x + q, 0.0F, 1.0F); });
  if (n == "elu") return each([p = a(1)](float x) { return x >= 0 ? x : p * (std::exp(x) - 1); });
  if (n == "softsign") return each([](float x) { return x / (1 + std::abs(x)); });
  if (n == "softplus") return each([](float x) { return std::max(x, 0.0F) + std::log1p(std::exp(-std::abs(x))); });
  refuse("the activation \"" + name + "\" is not known");
}

/// Activations that take alpha (and beta) draw them from the lists in order.
std::vector<Activation> activations_of(const Attrs& attrs, std::vector<std::string> names) {
  const std::vector<std::string> given = attrs.get("activations", std::vector<std::string>{});
  if (!given.empty()) {
    require(given.size() == names.size(), "a recurrent node needs " + std::to_string(names.size()) +
                                              " activations, not " + std::to_string(given.size()));
    names = given;
  }
  const std::vector<float> alphas = attrs.get("activation_alpha", std::vector<float>{}),
                           betas = attrs.get("activation_beta", std::vector<float>{});
  std::size_t next_alpha = 0, next_beta = 0;
  std::vector<Activation> out;
  for (const std::string& name : names) {
    const std::string n = lower(name);
    const bool takes_beta = n == "affine" || n == "scaledtanh" || n == "hardsigmoid";
    const bool takes_alpha = takes_beta || n == "leakyrelu" || n == "thresholdedrelu" || n == "elu";
    const float* alpha = takes_alpha && next_alpha < alphas.size() ? &alphas[next_alpha++] : nullptr;
    const float* beta = takes_beta && next_beta < betas.size() ? &betas[next_beta++] : nullptr;
    out.push_back(activation_of(name, alpha, beta));
  }
  return out;
}

/// The extents of one node, its operands in float32 and in the layout [seq, batch, ...].
struct Cell {
  std::int64_t gates, steps, batch, inputs, hidden, directions;
  std::string direction;
  float clip;
  Tensor x, w, r, b, h, c, p;  // b, h, c, p may be empty
  std::vector<std::int64_t> lengths;
  std::vector<Activation> activations;
  std::int64_t activations_per_direction;

  bool reversed(std::int64_t d) const { return direction == "reverse" || d == 1; }
  void clamp(float* x_, std::int64_t n) const {
    if (clip <= 0) return;
    for (std::int64_t i = 0; i < n; ++i) x_[i] = std::clamp(x_[i], -clip, clip);
  }
  const Activation& activation(std::int64_t d, std::int64_t i) const {
    return activations[at(d * activations_per_direction + i)];
  }
  const float* bias(std::int64_t d) const { return b ? b.read<float>().data() + d * 2 * gates * hidden : nullptr; }
};

/// [A, B, rest] to [B, A, rest].
Tensor swap_first_two(const Tensor& t) {
  if (t.empty()) return t;
  Shape s = t.shape();
  const std::int64_t a = s[0], b = s[1], rest = a * b == 0 ? 0 : t.count() / (a * b);
  std::swap(s[0], s[1]);
  Tensor out(DType::f32, s);
  const float* from = t.read<float>().data();
  float* to = out.write<float>().data();
  for (std::int64_t i = 0; i < a; ++i) {
    for (std::int64_t j = 0; j < b; ++j) std::copy_n(from + (i * b + j) * rest, rest, to + (j * a + i) * rest);
  }
  return out;
}

Tensor float_operand(const OpContext& ctx, std::size_t i, const char* name, const Shape& wanted) {
  if (!ctx.has(i)) return {};
  require(ctx.in(i).dtype() != DType::f64, "recurrent operators in float64 are not supported");
  Tensor t = compute_float(ctx.in(i), name);
  if (!wanted.empty()) {
    require(t.shape() == wanted,
            std::string(name) + " has the shape " + to_string(t.shape()) + " instead of " + to_string(wanted));
  }
  return t;
}

bool batch_first(const Attrs& attrs) { return attrs.get("layout", std::int64_t{0}) != 0; }

Cell cell_of(const OpContext& ctx, std::int64_t gates, const std::vector<std::string>& default_activations) {
  Cell k{};
  k.gates = gates;
  k.direction = ctx.attrs().get("direction", "forward");
  require(k.direction == "forward" || k.direction == "reverse" || k.direction == "bidirectional",
          "direction has the value \"" + k.direction + "\"");
  k.directions = k.direction == "bidirectional" ? 2 : 1;
  k.clip = ctx.attrs().get("clip", 0.0F);
  const bool batch_is_first = batch_first(ctx.attrs());
  k.x = float_operand(ctx, 0, "X", {});
  require(k.x.rank() == 3, "X has the shape " + to_string(k.x.shape()) + " where three axes are needed");
  if (batch_is_first) k.x = swap_first_two(k.x);
  k.steps = k.x.shape()[0];
  k.batch = k.x.shape()[1];
  k.inputs = k.x.shape()[2];
  require(ctx.in(2).rank() == 3, "R has the shape " + to_string(ctx.in(2).shape()) + " where three axes are needed");
  k.hidden = ctx.in(2).shape()[2];
  const std::int64_t declared = ctx.attrs().get("hidden_size", k.hidden);
  require(declared == k.hidden && k.hidden > 0, "hidden_size " + std::to_string(declared) + " does not agree with R");
  k.w = float_operand(ctx, 1, "W", {k.directions, gates * k.hidden, k.inputs});
  k.r = float_operand(ctx, 2, "R", {k.directions, gates * k.hidden, k.hidden});
  k.b = float_operand(ctx, 3, "B", {k.directions, 2 * gates * k.hidden});
  const Shape state = batch_is_first ? Shape{k.batch, k.directions, k.hidden} : Shape{k.directions, k.batch, k.hidden};
  k.h = float_operand(ctx, 5, "initial_h", state);
  if (gates == 4) {
    k.c = float_operand(ctx, 6, "initial_c", state);
    k.p = float_operand(ctx, 7, "P", {k.directions, 3 * k.hidden});
  }
  if (batch_is_first) {
    k.h = swap_first_two(k.h);
    k.c = swap_first_two(k.c);
  }
  if (ctx.has(4)) {
    k.lengths = to_int64s(ctx.in(4));
    require(static_cast<std::int64_t>(k.lengths.size()) == k.batch,
            "sequence_lens does not have one entry per sequence");
    for (const std::int64_t n : k.lengths) {
      require(n >= 0 && n <= k.steps, "sequence_lens has the value " + std::to_string(n));
    }
  } else {
    k.lengths.assign(at(k.batch), k.steps);
  }
  std::vector<std::string> names;
  for (std::int64_t d = 0; d < k.directions; ++d) {
    names.insert(names.end(), default_activations.begin(), default_activations.end());
  }
  k.activations = activations_of(ctx.attrs(), names);
  k.activations_per_direction = static_cast<std::int64_t>(default_activations.size());
  return k;
}

/// Buffers of one direction during its walk over the sequence.
struct Walker {
  std::vector<float> projected;  // X W^T + Wb, for all steps [steps, batch, gates*hidden]
  std::vector<float> z;          // gates of one step [batch, gates*hidden]
  std::vector<float> h, c;       // state [batch, hidden]
};

Walker start(const OpContext& ctx, const Cell& k, std::int64_t d) {
  Walker s;
  const std::int64_t width = k.gates * k.hidden, rows = k.steps * k.batch;
  s.projected.resize(at(rows * width));
  if (const float* bias = k.bias(d)) {
    for (std::int64_t i = 0; i < rows; ++i) std::copy_n(bias, width, s.projected.data() + i * width);
  }
  gemm(ctx.threads, false, true, rows, width, k.inputs, 1.0F, k.x.read<float>().data(), k.inputs,
       k.w.read<float>().data() + d * width * k.inputs, k.inputs, k.b ? 1.0F : 0.0F, s.projected.data(), width);
  s.z.resize(at(k.batch * width));
  const std::int64_t state = k.batch * k.hidden;
  s.h.assign(at(state), 0.0F);
  s.c.assign(at(state), 0.0F);
  if (k.h) std::copy_n(k.h.read<float>().data() + d * state, state, s.h.data());
  if (k.c) std::copy_n(k.c.read<float>().data() + d * state, state, s.c.data());
  return s;
}

/// Position in the sequence that batch row `row` reads at step t; -1: its sequence is over.
std::int64_t position(const Cell& k, std::int64_t d, std::int64_t t, std::int64_t row) {
  const std::int64_t n = k.lengths[at(row)];
  if (t >= n) return -1;
  return k.reversed(d) ? n - 1 - t : t;
}

/// z = projected input of step t, row by row.
void load_step(const Cell& k, std::int64_t d, std::int64_t t, Walker& s) {
  const std::int64_t width = k.gates * k.hidden;
  for (std::int64_t row = 0; row < k.batch; ++row) {
    const std::int64_t at_step = position(k, d, t, row);
    if (at_step >= 0)
      std::copy_n(s.projected.data() + (at_step * k.batch + row) * width, width, s.z.data() + row * width);
  }
}

/// z[:, first gate ...] += h R^T + Rb for `count` gates from `first` on.
void add_recurrence(const OpContext& ctx, const Cell& k, std::int64_t d, std::int64_t first, std::int64_t count,
                    const float* h, float* z, std::int64_t ld) {
  const std::int64_t width = k.gates * k.hidden;
  if (const float* bias = k.bias(d)) {
    const float* from = bias + width + first * k.hidden;
    for (std::int64_t row = 0; row < k.batch; ++row) {
      for (std::int64_t j = 0; j < count * k.hidden; ++j) z[row * ld + j] += from[j];
    }
  }
  gemm(ctx.threads, false, true, k.batch, count * k.hidden, k.hidden, 1.0F, h, k.hidden,
       k.r.read<float>().data() + (d * width + first * k.hidden) * k.hidden, k.hidden, 1.0F, z, ld);
}

struct Results {
  Tensor y, y_h, y_c;  // y [steps, directions, batch, hidden]; the others [directions, batch, hidden]
};

void lstm_direction(const OpContext& ctx, const Cell& k, std::int64_t d, bool couple, float* y, float* y_h,
                    float* y_c) {
  Walker s = start(ctx, k, d);
  const std::int64_t n = k.hidden, width = 4 * n;
  const float* peep = k.p ? k.p.read<float>().data() + d * 3 * n : nullptr;  // input, output, forget
  const Activation &f = k.activation(d, 0), &g = k.activation(d, 1), &out = k.activation(d, 2);
  std::vector<float> squashed(at(n));
  for (std::int64_t t = 0; t < k.steps; ++t) {
    load_step(k, d, t, s);
    add_recurrence(ctx, k, d, 0, 4, s.h.data(), s.z.data(), width);
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
  for (std::int64_t t = 0; t < k.steps; ++t) {
    load_step(k, d, t, s);
    add_recurrence(ctx, k, d, 0, 2, s.h.data(), s.z.data(), width);
    for (std::int64_t row = 0; row < k.batch; ++row) {
      float* z = s.z.data() + row * width;
      k.clamp(z, 2 * n);
      f(z, 2 * n);
      for (std::int64_t j = 0; j < n; ++j) gated[at(row * n + j)] = z[n + j] * s.h[at(row * n + j)];
    }
    std::fill(recurrent.begin(), recurrent.end(), 0.0F);
    add_recurrence(ctx, k, d, 2, 1, reset_last ? s.h.data() : gated.data(), recurrent.data(), n);
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
    add_recurrence(ctx, k, d, 0, 1, s.h.data(), s.z.data(), n);
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

void lstm(const OpContext& ctx) {
  const Cell k = cell_of(ctx, 4, {"Sigmoid", "Tanh", "Tanh"});
  const bool couple = ctx.attrs().get("input_forget", std::int64_t{0}) != 0;
  run(ctx, k,
      [&](std::int64_t d, float* y, float* y_h, float* y_c) { lstm_direction(ctx, k, d, couple, y, y_h, y_c); });
}

void gru(const OpContext& ctx) {
  const Cell k = cell_of(ctx, 3, {"Sigmoid", "Tanh"});
  const bool reset_last = ctx.attrs().get("linear_before_reset", std::int64_t{0}) != 0;
  run(ctx, k, [&](std::int64_t d, float* y, float* y_h, float*) { gru_direction(ctx, k, d, reset_last, y, y_h); });
}

void rnn(const OpContext& ctx) {
  const Cell k = cell_of(ctx, 1, {"Tanh"});
  run(ctx, k, [&](std::int64_t d, float* y, float* y_h, float*) { rnn_direction(ctx, k, d, y, y_h); });
}

void infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  const DType dtype = c.in(0).dtype;
  const std::int64_t directions = c.attrs().get("direction", "forward") == std::string("bidirectional") ? 2 : 1;
  std::int64_t steps = -1, batch = -1, hidden = c.attrs().get("hidden_size", std::int64_t{-1});
  if (hidden < 0 && c.in(2).known_rank && c.in(2).shape.size() == 3) hidden = c.in(2).shape[2];
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

constinit const OpDef GRU{"GRU", "", 1, infer, gru, nullptr};
constinit const OpDef LSTM{"LSTM", "", 1, infer, lstm, nullptr};
constinit const OpDef RNN{"RNN", "", 1, infer, rnn, nullptr};

}  // namespace qtool::op

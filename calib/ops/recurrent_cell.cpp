// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/recurrent.h"

#include <cmath>

#include "calib/ops/delegate.h"
#include "calib/ops/vector_math.h"
#include "formats/base/widest.h"

namespace qtool::op {
namespace {

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

/// Part `d` of `parts` along the first axis.
Tensor part_of(const Tensor& t, std::int64_t d, std::int64_t parts, Shape shape) {
  Tensor out(t.dtype(), std::move(shape));
  require(t.count() == parts * out.count(), "the quantized weights of DynamicQuantizeLSTM do not fit its directions");
  std::copy_n(t.bytes().data() + at(d) * out.size_bytes(), out.size_bytes(), out.write_bytes().data());
  return out;
}

/// Weights at input `codes`, scales and zero points at `scale` and behind it.
std::vector<Codes> codes_of(const OpContext& ctx, const Cell& k, std::size_t codes, std::size_t scale,
                            std::int64_t in) {
  const Tensor &w = ctx.in(codes), &s = ctx.in(scale), &z = ctx.in(scale + 1);
  const std::int64_t width = k.gates * k.hidden;
  require((w.dtype() == DType::u8 || w.dtype() == DType::i8) && w.shape() == Shape{k.directions, in, width},
          "the quantized weights have the shape " + to_string(w.shape()));
  const std::int64_t per = s.count() == k.directions ? 1 : width;
  std::vector<Codes> out;
  for (std::int64_t d = 0; d < k.directions; ++d) {
    out.push_back({part_of(w, d, k.directions, {in, width}), part_of(s, d, k.directions, {per}),
                   z.empty() ? Tensor() : part_of(z, d, k.directions, {z.count() / k.directions})});
  }
  return out;
}

/// to[rows, width] += x W, with x [rows, in] quantized on the way.
void add_quantized(const OpContext& ctx, const Codes& w, const float* x, std::int64_t rows, std::int64_t in,
                   float* to) {
  const Tensor operand = Tensor::of<float>({rows, in}, {x, at(rows * in)});
  const Tensor y = run_op(ctx, op::ms_DynamicQuantizeMatMul, {operand, w.codes, w.scale, w.zero}, {}, 1)[0];
  const auto from = y.read<float>();
  for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

}  // namespace

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

bool batch_first(const Attrs& attrs) { return attrs.get("layout", std::int64_t{0}) != 0; }

Cell cell_of(const OpContext& ctx, std::int64_t gates, const std::vector<std::string>& default_activations,
             bool quantized) {
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
  k.hidden = ctx.in(2).shape()[quantized ? 1 : 2];
  const std::int64_t declared = ctx.attrs().get("hidden_size", k.hidden);
  require(declared == k.hidden && k.hidden > 0, "hidden_size " + std::to_string(declared) + " does not agree with R");
  if (quantized) {
    k.w_codes = codes_of(ctx, k, 1, 8, k.inputs);
    k.r_codes = codes_of(ctx, k, 2, 10, k.hidden);
  } else {
    k.w = float_operand(ctx, 1, "W", {k.directions, gates * k.hidden, k.inputs});
    k.r = float_operand(ctx, 2, "R", {k.directions, gates * k.hidden, k.hidden});
  }
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
  const std::vector<std::string> given = ctx.attrs().get("activations", std::vector<std::string>{});
  k.usual = k.clip <= 0 && !k.p &&
            std::equal(given.begin(), given.end(), names.begin(),
                       [](const auto& a, const auto& b) { return lower(a) == lower(b); });
  k.activations_per_direction = static_cast<std::int64_t>(default_activations.size());
  return k;
}

Walker start(const OpContext& ctx, const Cell& k, std::int64_t d) {
  Walker s;
  const std::int64_t width = k.gates * k.hidden, rows = k.steps * k.batch;
  s.projected.resize(at(rows * width));
  if (k.w_codes.empty()) {
    project_inputs(ctx, k, d, s.projected.data());
    lay_out_recurrence(ctx, k, d, s);
    s.share.resize(at(k.batch * width));
  } else {
    if (const float* bias = k.bias(d)) {
      for (std::int64_t i = 0; i < rows; ++i) std::copy_n(bias, width, s.projected.data() + i * width);
    }
    // Steps that no sequence reaches take no part in the range of the codes.
    std::int64_t reached = 0;
    for (const std::int64_t n : k.lengths) reached = std::max(reached, n * k.batch);
    if (reached > 0)
      add_quantized(ctx, k.w_codes[at(d)], k.x.read<float>().data(), reached, k.inputs, s.projected.data());
  }
  s.z.resize(at(k.batch * width));
  const std::int64_t state = k.batch * k.hidden;
  s.h.assign(at(state), 0.0F);
  s.c.assign(at(state), 0.0F);
  if (k.h) std::copy_n(k.h.read<float>().data() + d * state, state, s.h.data());
  if (k.c) std::copy_n(k.c.read<float>().data() + d * state, state, s.c.data());
  return s;
}

std::int64_t position(const Cell& k, std::int64_t d, std::int64_t t, std::int64_t row) {
  const std::int64_t n = k.lengths[at(row)];
  if (t >= n) return -1;
  return k.reversed(d) ? n - 1 - t : t;
}

void load_step(const Cell& k, std::int64_t d, std::int64_t t, Walker& s) {
  s.step = t;
  const std::int64_t width = k.gates * k.hidden;
  for (std::int64_t row = 0; row < k.batch; ++row) {
    const std::int64_t at_step = position(k, d, t, row);
    if (at_step >= 0)
      std::copy_n(s.projected.data() + (at_step * k.batch + row) * width, width, s.z.data() + row * width);
  }
}

void add_recurrence(const OpContext& ctx, const Cell& k, Walker& s, std::int64_t d, std::int64_t first,
                    std::int64_t count, const float* h, float* z, std::int64_t ld) {
  const std::int64_t width = k.gates * k.hidden;
  if (const float* bias = k.bias(d)) {
    const float* from = bias + width + first * k.hidden;
    for (std::int64_t row = 0; row < k.batch; ++row) {
      for (std::int64_t j = 0; j < count * k.hidden; ++j) z[row * ld + j] += from[j];
    }
  }
  if (!k.r_codes.empty()) return add_quantized(ctx, k.r_codes[at(d)], h, k.batch, k.hidden, z);  // all gates at once
  multiply_recurrence(ctx, k, d, first, count, h, s);
  const std::int64_t columns = count * k.hidden;
  for (std::int64_t row = 0; row < k.batch; ++row) {
    for (std::int64_t j = 0; j < columns; ++j) z[row * ld + j] += s.share[at(row * columns + j)];
  }
}

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
// MoE of com.microsoft, a mixture of experts (Shazeer et al., 2017, arXiv:1701.06538): each token goes through the k
// feed-forward networks that its router likes best. (input, router, fc1 weights, fc1 bias, fc2 weights, fc2 bias, fc3
// weights, fc3 bias); weights are [experts, out, in].
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/softmax.h"

namespace qtool::op {
namespace {

enum class Activation : std::uint8_t { identity, relu, gelu, silu, swiglu };

Activation activation_of(const std::string& name) {
  if (name == "identity") return Activation::identity;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu") return Activation::silu;
  if (name == "swiglu") return Activation::swiglu;
  refuse("activation_type has the value \"" + name + "\"");
}

/// weights [experts, out, in] and bias [experts, out], either may be empty.
struct Layer {
  Tensor weights, bias;
  std::int64_t out = 0, in = 0;

  Layer(const Tensor& w, const Tensor& b, std::int64_t experts, const char* what) {
    if (w.empty()) return;
    weights = to_f32(compute_float(w, what));
    const Shape& s = weights.shape();
    require(s.size() == 3 && s[0] == experts, std::string(what) + " of MoE have the shape " + to_string(s));
    out = s[1];
    in = s[2];
    if (b.empty()) return;
    bias = to_f32(compute_float(b, what));
    require(bias.shape() == Shape{experts, out}, std::string(what) + " of MoE have a bias " + to_string(bias.shape()));
  }

  /// y [rows, out] = x [rows, in] W^T + b of one expert.
  std::vector<float> run(Threads& threads, std::int64_t expert, const std::vector<float>& x, std::int64_t rows) const {
    std::vector<float> y(at(rows * out));
    if (bias) {
      for (std::int64_t r = 0; r < rows; ++r) {
        std::copy_n(bias.read<float>().data() + expert * out, out, y.data() + r * out);
      }
    }
    gemm(threads, false, true, rows, out, in, 1.0F, x.data(), in, weights.read<float>().data() + expert * out * in, in,
         bias ? 1.0F : 0.0F, y.data(), out);
    return y;
  }
};

struct Gate {
  Activation kind;
  float alpha, beta, limit;
  std::int64_t fusion;  // of swiglu: 1: gate and value alternate, 2: one after the other
};

float silu(float x, float alpha) { return x / (1 + std::exp(-alpha * x)); }

/// [rows, width of x] to [rows, width], which is half of it for swiglu.
std::vector<float> activated(const Gate& g, std::vector<float> x, std::int64_t rows, std::int64_t width) {
  if (g.kind == Activation::swiglu) {
    std::vector<float> y(at(rows * width));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < width; ++j) {
        const float* row = x.data() + 2 * r * width;
        const float gate = std::min(g.fusion == 2 ? row[j] : row[2 * j], g.limit),
                    value = std::clamp(g.fusion == 2 ? row[width + j] : row[2 * j + 1], -g.limit, g.limit);
        y[at(r * width + j)] = silu(gate, g.alpha) * (value + g.beta);
      }
    }
    return y;
  }
  for (float& v : x) {
    if (g.kind == Activation::relu) v = std::max(v, 0.0F);
    if (g.kind == Activation::silu) v = silu(v, 1);
    if (g.kind == Activation::gelu) v = 0.5F * v * (1 + std::tanh(0.79788456F * (v + 0.044715F * v * v * v)));
  }
  return x;
}

/// The chosen experts of one token, with their weights.
std::vector<std::pair<std::int64_t, float>> route(const float* logits, std::int64_t experts, std::int64_t k,
                                                  bool normalize) {
  std::vector<float> shares(at(experts));
  softmax_row(logits, shares.data(), experts, 1);
  std::vector<std::int64_t> order(at(experts));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return shares[at(a)] > shares[at(b)]; });
  std::vector<std::pair<std::int64_t, float>> chosen;
  float sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    chosen.emplace_back(order[at(i)], shares[at(order[at(i)])]);
    sum += chosen.back().second;
  }
  if (normalize) {
    for (auto& [expert, share] : chosen) share /= sum;
  }
  return chosen;
}

void forward(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the input"), router = compute_float(c.in(1), "the router");
  require(x.rank() >= 2 && router.rank() == 2 && x.dtype() == DType::f32 && router.dtype() == DType::f32,
          "MoE of an input " + to_string(x.shape()) + " is not supported");
  const std::int64_t width = x.shape().back(), tokens = width == 0 ? 0 : x.count() / width, experts = router.shape()[1];
  const std::int64_t k = c.attrs().get("k", std::int64_t{1});
  require(
      router.shape()[0] == tokens && k >= 1 && k <= experts && c.attrs().get("use_sparse_mixer", std::int64_t{0}) == 0,
      "a router of shape " + to_string(router.shape()) + " for " + std::to_string(tokens) + " tokens and " +
          std::to_string(k) + " experts each is not supported");
  const Layer first(c.in(2), c.in(3), experts, "the first weights"),
      second(c.in(4), c.in(5), experts, "the second weights"), third(c.in(6), c.in(7), experts, "the third weights");
  const Gate gate{activation_of(c.attrs().get("activation_type", "relu")), c.attrs().get("activation_alpha", 1.0F),
                  c.attrs().get("activation_beta", 0.0F),
                  c.attrs().get("swiglu_limit", std::numeric_limits<float>::infinity()),
                  c.attrs().get("swiglu_fusion", std::int64_t{0})};
  const std::int64_t inner = gate.kind == Activation::swiglu ? first.out / 2 : first.out;
  require(first.in == width && second.in == inner && second.out == width &&
              (third.weights.empty() || (third.in == width && third.out == inner)) &&
              (gate.kind != Activation::swiglu || (gate.fusion != 0 && first.out % 2 == 0)),
          "the weights of MoE do not fit each other");

  std::vector<std::vector<std::pair<std::int64_t, float>>> by_expert(at(experts));  // tokens and their weights
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (const auto& [expert, share] : route(router.read<float>().data() + t * experts, experts, k,
                                             c.attrs().get("normalize_routing_weights", std::int64_t{0}) != 0)) {
      by_expert[at(expert)].emplace_back(t, share);
    }
  }
  Tensor y(DType::f32, x.shape());
  float* to = y.write<float>().data();
  for (std::int64_t e = 0; e < experts; ++e) {
    const auto& mine = by_expert[at(e)];
    const auto rows = static_cast<std::int64_t>(mine.size());
    if (rows == 0) continue;
    std::vector<float> in(at(rows * width));
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(x.read<float>().data() + mine[at(r)].first * width, width, in.data() + r * width);
    }
    std::vector<float> hidden = activated(gate, first.run(c.threads, e, in, rows), rows, inner);
    if (third.weights) {
      const std::vector<float> values = third.run(c.threads, e, in, rows);
      for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] *= values[i];
    }
    const std::vector<float> out = second.run(c.threads, e, hidden, rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = to + mine[at(r)].first * width;
      for (std::int64_t j = 0; j < width; ++j) row[j] += mine[at(r)].second * out[at(r * width + j)];
    }
  }
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

}  // namespace

constinit const OpDef ms_MoE{"MoE", "com.microsoft", 1, infer_same, forward, nullptr};

}  // namespace qtool::op

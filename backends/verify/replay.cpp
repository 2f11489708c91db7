// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/replay.h"

#include <algorithm>
#include <cmath>

namespace qtool::verify {
namespace {

bool is_product(const NodeView& n) { return n.is("Conv") || n.is("ConvTranspose") || n.is("Gemm") || n.is("MatMul"); }

/// y = a x + b per channel.
struct Affine {
  std::vector<double> a, b;
};

std::optional<std::vector<double>> per_channel(const std::optional<Numbers>& x, std::int64_t channels) {
  if (!x) return std::nullopt;
  const std::vector<float> values = x->all();
  std::vector<double> list(values.begin(), values.end());
  if (list.size() == 1) list.assign(static_cast<std::size_t>(channels), list[0]);
  if (static_cast<std::int64_t>(list.size()) != channels) return std::nullopt;
  return list;
}

std::optional<Affine> normalization(const Scene& model, const NodeView& n) {
  std::vector<std::vector<double>> p;
  for (std::size_t i = 1; i < 5; ++i) {
    const auto values = constant_of(model, n.input(i));
    if (!values) return std::nullopt;
    const std::vector<float> all = values->all();
    p.emplace_back(all.begin(), all.end());
    if (p.back().size() != p.front().size()) return std::nullopt;
  }
  const double epsilon = static_cast<double>(n.number("epsilon", 1e-5F));
  Affine f;
  for (std::size_t c = 0; c < p[0].size(); ++c) {
    f.a.push_back(p[0][c] / std::sqrt(p[3][c] + epsilon));
    f.b.push_back(p[1][c] - p[2][c] * f.a[c]);
  }
  return f;
}

std::optional<Affine> affine_of(const Scene& model, const NodeView& n, std::int64_t channels) {
  if (n.is("BatchNormalization")) return normalization(model, n);
  const auto side = constant_side(model, n);
  if (!side) return std::nullopt;
  const auto k = per_channel(constant_of(model, n.inputs[*side]), channels);
  if (!k) return std::nullopt;
  const auto size = static_cast<std::size_t>(channels);
  Affine f{std::vector<double>(size, 1.0), std::vector<double>(size, 0.0)};
  for (std::size_t c = 0; c < size; ++c) {
    if (n.op == "Mul") f.a[c] = (*k)[c];
    if (n.op == "Div") f.a[c] = 1 / (*k)[c];
    if (n.op == "Add") f.b[c] = (*k)[c];
    if (n.op == "Sub") f.b[c] = *side == 1 ? -(*k)[c] : (*k)[c];
    if (n.op == "Sub" && *side == 0) f.a[c] = -1;
  }
  return f;
}

class Replay {
 public:
  Replay(const Scene& model, const NodeView& product) : model_(model), product_(product) {}

  Floats run(std::span<const Fold> folds) {
    const auto stored = constant_of(model_, product_.input(1));
    if (!stored) return failed("its weight in the model is computed by operators that are not replayed");
    result_.weight = *stored;
    const auto layout = layout_of(product_, stored->dims);
    if (!layout) return failed("its weight in the model has another form");
    layout_ = *layout;
    read_bias();
    for (const Fold& fold : folds) {
      if (!apply(fold)) return failed("a fold that was applied to it cannot be replayed");
    }
    if (result_.folded) result_.weight = Numbers(stored->dims, stored->type, std::move(w_));
    return result_;
  }

 private:
  static Floats failed(const char* why) {
    Floats f;
    f.why = why;
    return f;
  }

  void read_bias() {
    std::string_view name = product_.op == "MatMul" ? std::string_view{} : product_.input(2);
    if (const NodeView* add = product_.op == "MatMul" ? added_behind(model_, product_) : nullptr) {
      name = add->inputs[*constant_side(model_, *add)];
    }
    if (name.empty()) {
      result_.bias.emplace(static_cast<std::size_t>(layout_.outputs()));
      return;
    }
    result_.bias = per_channel(constant_of(model_, name), layout_.outputs());
  }

  /// The bias as folds see it: Gemm multiplies its third operand by beta, until a fold takes that in.
  void open_bias() {
    if (result_.bias && !result_.bias_moved && product_.op == "Gemm") {
      for (double& c : *result_.bias) c *= static_cast<double>(product_.number("beta", 1.0F));
    }
    result_.bias_moved = true;
  }

  void close_bias() {
    if (!result_.bias) return;
    for (double& c : *result_.bias) c = static_cast<double>(rounded(c, result_.weight.type));
  }

  std::vector<float>& weights() {
    if (!result_.folded) w_ = result_.weight.all();
    result_.folded = true;
    return w_;
  }

  /// f(output channel, input channel, weight)
  template <class F>
  void each(const F& f) {
    std::vector<float>& w = weights();
    std::size_t e = 0;
    for (std::int64_t i = 0; i < layout_.a; ++i) {
      const std::int64_t base = i / (layout_.a / layout_.groups) * layout_.b;
      for (std::int64_t j = 0; j < layout_.b; ++j) {
        const auto one = static_cast<std::size_t>(i), other = static_cast<std::size_t>(base + j);
        for (std::int64_t t = 0; t < layout_.taps; ++t, ++e) {
          layout_.out_first ? f(one, other, w[e]) : f(other, one, w[e]);
        }
      }
    }
  }

  void scale(const std::vector<double>& outputs, const std::vector<double>& inputs) {
    each([&](std::size_t o, std::size_t i, float& w) {
      const double factor = (outputs.empty() ? 1.0 : outputs[o]) * (inputs.empty() ? 1.0 : inputs[i]);
      w = rounded(static_cast<double>(w) * factor, result_.weight.type);
    });
  }

  bool apply(const Fold& fold) {
    const auto outputs = static_cast<std::size_t>(layout_.outputs()),
               inputs = static_cast<std::size_t>(layout_.inputs());
    const auto fits = [](const std::vector<double>& v, std::size_t n) { return v.empty() || v.size() == n; };
    switch (fold.kind) {
      case Fold::Kind::behind: {
        const auto f = fold.node == nullptr ? std::nullopt : affine_of(model_, *fold.node, layout_.outputs());
        if (!f || f->a.size() != outputs) return false;
        scale(f->a, {});
        open_bias();
        for (std::size_t o = 0; result_.bias && o < outputs; ++o) {
          (*result_.bias)[o] = (*result_.bias)[o] * f->a[o] + f->b[o];
        }
        break;
      }
      case Fold::Kind::before: {
        auto f = fold.node == nullptr ? std::nullopt : normalization(model_, *fold.node);
        if (!f || f->a.empty() || inputs % f->a.size() != 0) return false;
        const std::size_t times = inputs / f->a.size();
        Affine wide;
        for (std::size_t c = 0; c < f->a.size(); ++c) {
          wide.a.insert(wide.a.end(), times, f->a[c]);
          wide.b.insert(wide.b.end(), times, f->b[c]);
        }
        if (std::any_of(wide.b.begin(), wide.b.end(), [](double b) { return b != 0; })) {
          open_bias();
          const double alpha = product_.op == "Gemm" ? static_cast<double>(product_.number("alpha", 1.0F)) : 1.0;
          if (result_.bias) {
            each([&](std::size_t o, std::size_t i, float& w) {
              (*result_.bias)[o] += alpha * static_cast<double>(w) * wide.b[i];
            });
          }
        }
        scale({}, wide.a);
        break;
      }
      case Fold::Kind::equalized:
        if (!fits(fold.outputs, outputs) || !fits(fold.inputs, inputs)) return false;
        scale(fold.outputs, fold.inputs);
        open_bias();
        for (std::size_t o = 0; result_.bias && !fold.outputs.empty() && o < outputs; ++o) {
          (*result_.bias)[o] *= fold.outputs[o];
        }
        break;
      case Fold::Kind::shifted:
        if (fold.outputs.size() != outputs) return false;
        open_bias();
        for (std::size_t o = 0; result_.bias && o < outputs; ++o) (*result_.bias)[o] += fold.outputs[o];
        break;
    }
    close_bias();
    return true;
  }

  const Scene& model_;
  const NodeView& product_;
  Layout layout_;
  std::vector<float> w_;
  Floats result_;
};

/// The node that alone reads `v`, at any input; null: none, or others do too.
const NodeView* only_reader(const Scene& s, std::string_view v) {
  const auto& all = s.uses(v);
  return all.size() == 1 ? all[0].node : nullptr;
}

std::vector<Fold> folds_behind(const Scene& model, const NodeView& product,
                               const std::function<bool(const NodeView&)>& is_kept) {
  std::vector<Fold> folds;
  const NodeView* at = product.op == "MatMul" ? added_behind(model, product) : nullptr;
  if (at == nullptr) at = &product;
  for (;;) {
    if (at->outputs.empty()) return folds;
    const NodeView* next = only_reader(model, at->outputs[0]);
    if (next == nullptr || is_kept(*next)) return folds;
    const bool normalizes = next->is("BatchNormalization") && next->input(0) == at->outputs[0];
    const bool counts = next->is("Mul") || next->is("Div") || next->is("Add") || next->is("Sub");
    if (!normalizes && !(counts && constant_side(model, *next))) return folds;
    folds.push_back({Fold::Kind::behind, next, {}, {}});
    at = next;
  }
}

}  // namespace

std::optional<Layout> layout_of(const NodeView& product, const std::vector<std::int64_t>& weight) {
  const bool conv = product.op == "Conv", spatial = conv || product.op == "ConvTranspose";
  if (spatial ? weight.size() < 3 : weight.size() != 2) return std::nullopt;
  Layout l;
  l.a = weight[0];
  l.b = weight[1];
  for (std::size_t i = 2; i < weight.size(); ++i) l.taps *= weight[i];
  l.groups = spatial ? product.integer("group", 1) : 1;
  l.out_first = conv || (product.op == "Gemm" && product.integer("transB", 0) != 0);
  if (l.a < 1 || l.groups < 1 || l.a % l.groups != 0) return std::nullopt;
  return l;
}

std::optional<std::size_t> constant_side(const Scene& model, const NodeView& n) {
  if (n.inputs.size() != 2) return std::nullopt;
  for (const std::size_t i : {std::size_t{1}, std::size_t{0}}) {
    if (constant_of(model, n.inputs[i])) return i;
  }
  return std::nullopt;
}

const NodeView* added_behind(const Scene& model, const NodeView& product) {
  const NodeView* add = product.outputs.empty() ? nullptr : only_reader(model, product.outputs[0]);
  return add != nullptr && add->is("Add") && constant_side(model, *add) ? add : nullptr;
}

Floats replay(const Scene& model, const NodeView& product, std::span<const Fold> folds) {
  return Replay(model, product).run(folds);
}

std::vector<Fold> folds_between(const Scene& model, const NodeView& product,
                                const std::function<bool(const NodeView&)>& is_kept) {
  std::vector<Fold> folds = folds_behind(model, product, is_kept);
  const NodeView* before = model.producer(product.input(0));
  if (before != nullptr && before->is("Flatten")) before = model.producer(before->input(0));
  if (before == nullptr || !before->is("BatchNormalization") || is_kept(*before)) return folds;
  // It went into the product in front of it if it could.
  for (const NodeView& n : model.graph.nodes) {
    if (!is_product(n)) continue;
    const auto own = folds_behind(model, n, is_kept);
    if (std::any_of(own.begin(), own.end(), [&](const Fold& f) { return f.node == before; })) return folds;
  }
  folds.push_back({Fold::Kind::before, before, {}, {}});
  return folds;
}

}  // namespace qtool::verify

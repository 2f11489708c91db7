// SPDX-License-Identifier: Apache-2.0
// Einsum: sums of products by index letters. Operands are contracted from left to right, two at a time, each time as a
// stack of matrix products: [kept in both][left only][summed] times [kept in both][summed][right only].
#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/matmul.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

/// One index per axis: a letter, or a position inside the ellipsis counted from its right end (so that shorter
/// ellipses align at the right, as broadcasting does).
using Label = int;
using Labels = std::vector<Label>;
constexpr Label ellipsis_base = 1000;  // ellipsis_base + i: i-th axis from the right

bool contains(const Labels& labels, Label l) { return std::find(labels.begin(), labels.end(), l) != labels.end(); }

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// One side of a term; `ellipsis`: how many axes "..." stands for.
Labels parse_term(std::string_view term, std::int64_t ellipsis, const std::string& equation) {
  Labels out;
  bool seen = false;
  for (std::size_t i = 0; i < term.size(); ++i) {
    if (is_letter(term[i])) {
      out.push_back(term[i]);
    } else {
      require(term.substr(i, 3) == "..." && !seen, "the equation \"" + equation + "\" cannot be read");
      seen = true;
      i += 2;
      for (std::int64_t k = ellipsis; k-- > 0;) out.push_back(ellipsis_base + static_cast<Label>(k));
    }
  }
  return out;
}

struct Equation {
  std::vector<Labels> inputs;
  Labels output;
};

Equation parse(std::string equation, const std::vector<std::int64_t>& ranks) {
  const std::string original = equation;
  equation.erase(std::remove(equation.begin(), equation.end(), ' '), equation.end());
  const std::size_t arrow = equation.find("->");
  std::string_view left = equation;
  if (arrow != std::string::npos) left = left.substr(0, arrow);
  std::vector<std::string_view> terms;
  for (std::size_t begin = 0;;) {
    const std::size_t comma = left.find(',', begin);
    terms.push_back(left.substr(begin, comma == std::string_view::npos ? comma : comma - begin));
    if (comma == std::string_view::npos) break;
    begin = comma + 1;
  }
  require(terms.size() == ranks.size(), "the equation \"" + original + "\" names " + std::to_string(terms.size()) +
                                            " operands where there are " + std::to_string(ranks.size()));
  Equation e;
  std::int64_t widest = 0;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const auto letters = static_cast<std::int64_t>(std::count_if(terms[i].begin(), terms[i].end(), is_letter));
    const bool dots = terms[i].find("...") != std::string_view::npos;
    require(dots ? ranks[i] >= letters : ranks[i] == letters, "the equation \"" + original +
                                                                  "\" does not fit operand " + std::to_string(i) +
                                                                  " of rank " + std::to_string(ranks[i]));
    e.inputs.push_back(parse_term(terms[i], ranks[i] - letters, original));
    if (dots) widest = std::max(widest, ranks[i] - letters);
  }
  if (arrow != std::string::npos) {
    e.output = parse_term(std::string_view(equation).substr(arrow + 2), widest, original);
  } else {
    // Implicit output: the ellipsis, then the letters that occur once, in alphabetical order.
    std::map<Label, int> uses;
    for (const Labels& labels : e.inputs) {
      for (const Label l : labels) ++uses[l];
    }
    for (std::int64_t k = widest; k-- > 0;) e.output.push_back(ellipsis_base + static_cast<Label>(k));
    for (const auto& [label, count] : uses) {
      if (label < ellipsis_base && count == 1) e.output.push_back(label);
    }
  }
  for (std::size_t i = 0; i < e.output.size(); ++i) {
    const Label l = e.output[i];
    require(std::count(e.output.begin(), e.output.end(), l) == 1,
            "the equation \"" + original + "\" repeats an output index");
    require(std::any_of(e.inputs.begin(), e.inputs.end(), [l](const Labels& x) { return contains(x, l); }),
            "the equation \"" + original + "\" has an output index that no operand has");
  }
  return e;
}

/// A dense operand with one label per axis.
struct Operand {
  Tensor data;
  Labels labels;
  std::int64_t extent_of(Label l) const {
    const auto found = std::find(labels.begin(), labels.end(), l);
    return found == labels.end() ? 1 : data.shape()[static_cast<std::size_t>(found - labels.begin())];
  }
};

/// The axes in the order of `wanted` (labels that the operand lacks are left out), repeated labels become the diagonal.
Operand arranged(Threads& threads, const Operand& x, const Labels& wanted) {
  Operand out;
  Shape shape;
  std::vector<std::int64_t> strides;
  const std::vector<std::int64_t> own = strides_of(x.data.shape());
  for (const Label l : wanted) {
    if (!contains(x.labels, l)) continue;
    std::int64_t step = 0, size = 1;
    for (std::size_t i = 0; i < x.labels.size(); ++i) {
      if (x.labels[i] != l) continue;
      const std::int64_t d = x.data.shape()[i];
      if (d != 1) {
        require(size == 1 || size == d,
                "einsum takes the diagonal of axes of extents " + std::to_string(size) + " and " + std::to_string(d));
        size = d;
        step += own[i];
      }
    }
    out.labels.push_back(l);
    shape.push_back(size);
    strides.push_back(step);
  }
  out.data = gather_strided(threads, x.data, shape, strides);
  return out;
}

/// Sums over the labels not in `kept`.
template <class T>
Operand summed(Threads& threads, const Operand& x, const Labels& kept) {
  Labels order, gone;
  for (const Label l : x.labels) {
    Labels& to = contains(kept, l) ? order : gone;
    if (!contains(to, l)) to.push_back(l);
  }
  const bool plain = gone.empty() && order == x.labels;
  if (plain) return x;
  const std::size_t rank = order.size();
  Labels all = order;
  all.insert(all.end(), gone.begin(), gone.end());
  Operand y = arranged(threads, x, all);
  if (gone.empty()) return y;
  const Shape shape(y.data.shape().begin(), y.data.shape().begin() + static_cast<std::ptrdiff_t>(rank));
  Tensor out(y.data.dtype(), shape);
  const std::int64_t n = out.count(), each = n == 0 ? 0 : y.data.count() / n;
  const T* from = y.data.read<T>().data();
  const auto to = out.write<T>();
  for (std::int64_t i = 0; i < n; ++i) {
    T sum = 0;
    for (std::int64_t j = 0; j < each; ++j) sum = static_cast<T>(sum + from[i * each + j]);
    to[at(i)] = sum;
  }
  return {std::move(out), std::move(order)};
}

template <class T>
void multiply(Threads& threads, const MatMulPlan& p, const T* a, const T* b, T* c) {
  if constexpr (std::is_floating_point_v<T>) {
    multiply_stacks<T>(threads, p, T(1), a, b, c);
  } else {
    for (std::int64_t t = 0; t < p.batches(); ++t) {
      for (std::int64_t i = 0; i < p.m; ++i) {
        for (std::int64_t j = 0; j < p.n; ++j) {
          std::uint64_t sum = 0;
          for (std::int64_t l = 0; l < p.k; ++l) {
            sum += static_cast<std::uint64_t>(a[p.a_offsets[at(t)] + i * p.k + l]) *
                   static_cast<std::uint64_t>(b[p.b_offsets[at(t)] + l * p.n + j]);
          }
          c[(t * p.m + i) * p.n + j] = static_cast<T>(sum);
        }
      }
    }
  }
}

template <class T>
Operand contract(Threads& threads, Operand a, Operand b, const Labels& needed) {
  // Axes of extent 1 that the other operand has longer are repeated: they carry nothing.
  const auto drop_repeated = [](Operand& x, const Operand& other) {
    Shape shape;
    Labels labels;
    for (std::size_t i = 0; i < x.labels.size(); ++i) {
      const Label l = x.labels[i];
      if (x.data.shape()[i] == 1 && contains(other.labels, l) && other.extent_of(l) != 1) continue;
      labels.push_back(l);
      shape.push_back(x.data.shape()[i]);
    }
    x.data = x.data.reshaped(shape);
    x.labels = std::move(labels);
  };
  Labels wanted = needed;
  wanted.insert(wanted.end(), b.labels.begin(), b.labels.end());
  a = summed<T>(threads, a, wanted);
  wanted = needed;
  wanted.insert(wanted.end(), a.labels.begin(), a.labels.end());
  b = summed<T>(threads, b, wanted);
  drop_repeated(a, b);
  drop_repeated(b, a);

  Labels both, left, right, gone;
  for (const Label l : a.labels) (contains(b.labels, l) ? (contains(needed, l) ? both : gone) : left).push_back(l);
  for (const Label l : b.labels) {
    if (!contains(a.labels, l)) right.push_back(l);
  }
  const auto joined = [](std::initializer_list<const Labels*> parts) {
    Labels out;
    for (const Labels* p : parts) out.insert(out.end(), p->begin(), p->end());
    return out;
  };
  const auto size = [](const Operand& x, const Labels& labels) {
    std::int64_t n = 1;
    for (const Label l : labels) n *= x.extent_of(l);
    return n;
  };
  for (const Labels* shared : {&both, &gone}) {
    for (const Label l : *shared) {
      require(a.extent_of(l) == b.extent_of(l), "einsum meets an index with the extents " +
                                                    std::to_string(a.extent_of(l)) + " and " +
                                                    std::to_string(b.extent_of(l)));
    }
  }
  const std::int64_t batch = size(a, both), m = size(a, left), k = size(a, gone), n = size(b, right);
  Operand out;
  out.labels = joined({&both, &left, &right});
  Shape shape;
  for (const Label l : out.labels) shape.push_back(contains(a.labels, l) ? a.extent_of(l) : b.extent_of(l));
  a = arranged(threads, a, joined({&both, &left, &gone}));
  b = arranged(threads, b, joined({&both, &gone, &right}));
  out.data = Tensor(a.data.dtype(), shape);
  if (out.data.count() > 0 && k > 0) {
    multiply<T>(threads, plan_matmul({batch, m, k}, {batch, k, n}), a.data.read<T>().data(), b.data.read<T>().data(),
                out.data.write<T>().data());
  }
  return out;
}

template <class T>
Tensor einsum(Threads& threads, const Equation& e, const std::vector<Tensor>& operands) {
  Operand result{operands[0], e.inputs[0]};
  for (std::size_t i = 1; i < operands.size(); ++i) {
    Labels needed = e.output;  // by the output or by operands to come
    for (std::size_t j = i + 1; j < operands.size(); ++j) {
      needed.insert(needed.end(), e.inputs[j].begin(), e.inputs[j].end());
    }
    Operand next{operands[i], e.inputs[i]};
    const auto diagonal = [&](Operand& x) {
      Labels distinct;
      for (const Label l : x.labels) {
        if (!contains(distinct, l)) distinct.push_back(l);
      }
      if (distinct.size() != x.labels.size()) x = arranged(threads, x, distinct);
    };
    diagonal(result);
    diagonal(next);
    result = contract<T>(threads, std::move(result), std::move(next), needed);
  }
  result = summed<T>(threads, result, e.output);
  return arranged(threads, result, e.output).data;
}

void forward(const OpContext& c) {
  std::vector<std::int64_t> ranks;
  std::vector<Tensor> operands;
  const DType stored = c.in(0).dtype();
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    require(c.in(i).dtype() == stored, "the operands of Einsum differ in type");
    operands.push_back(widened(c.in(i)));
    ranks.push_back(c.in(i).rank());
  }
  require(!operands.empty(), "Einsum has no operands");
  const Equation e = parse(c.attrs().get("equation", ""), ranks);
  Tensor y;
  for_number_type(operands[0].dtype(), [&](auto zero) { y = einsum<decltype(zero)>(c.threads, e, operands); });
  c.out(0, narrowed(std::move(y), stored));
}

void infer(InferContext& c) {
  Type t;
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  std::vector<std::int64_t> ranks;
  for (const Type& x : c.inputs) {
    if (!x.known_rank) return c.out(0, t);
    ranks.push_back(static_cast<std::int64_t>(x.shape.size()));
  }
  if (ranks.empty()) return;
  const Equation e = parse(c.attrs().get("equation", ""), ranks);
  t.known_rank = true;
  for (const Label l : e.output) {
    std::int64_t d = 1;
    for (std::size_t i = 0; i < e.inputs.size(); ++i) {
      for (std::size_t j = 0; j < e.inputs[i].size(); ++j) {
        const std::int64_t own = c.inputs[i].shape[j];
        if (e.inputs[i][j] == l && (d == 1 || (d < 0 && own > 1))) d = own;
      }
    }
    t.shape.push_back(d);
  }
  c.out(0, t);
}

/// d(operand i) = einsum(gradient, other operands -> labels of operand i); labels that only operand i has were summed
/// away, so their gradient is repeated. Diagonals are left out: no gradient flows through them.
void backward(BackwardContext& c) {
  if (c.grad(0).empty()) return;
  std::vector<std::int64_t> ranks;
  for (const Tensor& x : c.inputs) ranks.push_back(x.rank());
  const Equation e = parse(c.attrs().get("equation", ""), ranks);
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    if (!c.wants(i)) continue;
    Equation g;
    std::vector<Tensor> operands{c.grad(0)};
    g.inputs.push_back(e.output);
    for (std::size_t j = 0; j < c.inputs.size(); ++j) {
      if (j == i) continue;
      g.inputs.push_back(e.inputs[j]);
      operands.push_back(c.in(j));
    }
    // A vector of ones for every label that nobody else has.
    for (std::size_t k = 0; k < e.inputs[i].size(); ++k) {
      const Label l = e.inputs[i][k];
      require(std::count(e.inputs[i].begin(), e.inputs[i].end(), l) == 1,
              "einsum with a diagonal has no gradient here");
      const bool known = std::any_of(g.inputs.begin(), g.inputs.end(), [l](const Labels& x) { return contains(x, l); });
      if (known) continue;
      const std::int64_t n = c.in(i).shape()[k];
      g.inputs.push_back({l});
      operands.push_back(Tensor::of<float>({n}, std::vector<float>(at(n), 1.0F)));
    }
    g.output = e.inputs[i];
    c.input_gradients[i] = sum_to(einsum<float>(c.threads, g, operands), c.in(i).shape());
  }
}

}  // namespace

constinit const OpDef Einsum{"Einsum", "", 12, infer, forward, backward};

}  // namespace qtool::op

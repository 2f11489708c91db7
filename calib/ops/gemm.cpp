// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

/// Y[m,n] = alpha op(A) op(B) + beta C, where C broadcasts to Y.
struct Problem {
  bool transpose_a, transpose_b;
  float alpha, beta;
  std::int64_t m, n, k;
  std::int64_t c_row = 0, c_column = 0;  // strides of C over Y, 0 where it repeats
};

Problem problem_of(const Attrs& attrs, const Shape& a, const Shape& b, const Tensor& c) {
  require(a.size() == 2 && b.size() == 2, "Gemm needs matrices, not shapes " + to_string(a) + " and " + to_string(b));
  Problem p{};
  p.transpose_a = attrs.get("transA", std::int64_t{0}) != 0;
  p.transpose_b = attrs.get("transB", std::int64_t{0}) != 0;
  p.alpha = attrs.get("alpha", 1.0F);
  p.beta = attrs.get("beta", 1.0F);
  p.m = a[p.transpose_a ? 1 : 0];
  p.k = a[p.transpose_a ? 0 : 1];
  p.n = b[p.transpose_b ? 0 : 1];
  require(p.k == b[p.transpose_b ? 1 : 0],
          "Gemm of shapes " + to_string(a) + " and " + to_string(b) + " is not defined");
  if (c.empty()) return p;
  Shape s = c.shape();
  while (s.size() > 2 && s.front() == 1) s.erase(s.begin());
  while (s.size() < 2) s.insert(s.begin(), 1);
  require(s.size() == 2 && (s[0] == p.m || s[0] == 1) && (s[1] == p.n || s[1] == 1),
          "the bias of shape " + to_string(c.shape()) + " does not spread over " + to_string(Shape{p.m, p.n}));
  p.c_row = s[0] == 1 ? 0 : s[1];
  p.c_column = s[1] == 1 ? 0 : 1;
  return p;
}

template <class T>
void spread(const Problem& p, const T* c, T beta, T* y) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) y[i * p.n + j] = beta * c[i * p.c_row + j * p.c_column];
  }
}

/// Integer matrices, by the definition; products and sums wrap around.
template <class T>
void gemm_integers(const Problem& p, const T* a, const T* b, const T* c, T* y) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) {
      std::uint64_t sum = 0;
      for (std::int64_t l = 0; l < p.k; ++l) {
        sum += static_cast<std::uint64_t>(a[p.transpose_a ? l * p.m + i : i * p.k + l]) *
               static_cast<std::uint64_t>(b[p.transpose_b ? j * p.k + l : l * p.n + j]);
      }
      const T product = static_cast<T>(sum);
      const T bias = c == nullptr ? T{0} : c[i * p.c_row + j * p.c_column];
      if (p.alpha == 1.0F && p.beta == 1.0F) {
        y[i * p.n + j] = static_cast<T>(static_cast<std::uint64_t>(product) + static_cast<std::uint64_t>(bias));
      } else {
        y[i * p.n + j] = static_cast<T>(static_cast<double>(p.alpha) * static_cast<double>(product) +
                                        static_cast<double>(p.beta) * static_cast<double>(bias));
      }
    }
  }
}

void infer(InferContext& c) {
  Type t;
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  if (c.in(0).known_rank && c.in(1).known_rank && c.in(0).shape.size() == 2 && c.in(1).shape.size() == 2) {
    t.known_rank = true;
    t.shape = {c.in(0).shape[c.attrs().get("transA", std::int64_t{0}) != 0 ? 1 : 0],
               c.in(1).shape[c.attrs().get("transB", std::int64_t{0}) != 0 ? 0 : 1]};
  }
  c.out(0, t);
}

void forward(const OpContext& ctx) {
  const Problem p = problem_of(ctx.attrs(), ctx.in(0).shape(), ctx.in(1).shape(), ctx.in(2));
  const DType stored = ctx.in(0).dtype();
  if (is_integer(stored)) {
    require(ctx.in(1).dtype() == stored && (!ctx.has(2) || ctx.in(2).dtype() == stored),
            "the operands of Gemm differ in type");
    Tensor y(stored, {p.m, p.n});
    op::for_integer_type(stored, [&](auto zero) {
      using T = decltype(zero);
      gemm_integers<T>(p, ctx.in(0).read<T>().data(), ctx.in(1).read<T>().data(),
                       ctx.has(2) ? ctx.in(2).read<T>().data() : nullptr, y.write<T>().data());
    });
    return ctx.out(0, std::move(y));
  }
  const Tensor a = compute_float(ctx.in(0), "operand A"), b = compute_float(ctx.in(1), "operand B");
  const Tensor c = ctx.has(2) ? compute_float(ctx.in(2), "operand C") : Tensor();
  Tensor y = Tensor::unset(a.dtype(), {p.m, p.n});
  op::for_float_type(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.write<T>().data();
    if (c) spread<T>(p, c.read<T>().data(), T(p.beta), out);
    gemm(ctx.threads, p.transpose_a, p.transpose_b, p.m, p.n, p.k, T(p.alpha), a.read<T>().data(),
         p.transpose_a ? p.m : p.k, b.read<T>().data(), p.transpose_b ? p.k : p.n, c ? T(1) : T(0), out, p.n);
  });
  ctx.out(0, op::narrowed(std::move(y), stored));
}

void backward(BackwardContext& ctx) {
  if (ctx.grad(0).empty()) return;
  const Problem p = problem_of(ctx.attrs(), ctx.in(0).shape(), ctx.in(1).shape(), ctx.in(2));
  const std::int64_t lda = p.transpose_a ? p.m : p.k, ldb = p.transpose_b ? p.k : p.n;
  const float *a = ctx.in(0).read<float>().data(), *b = ctx.in(1).read<float>().data(),
              *d = ctx.grad(0).read<float>().data();
  if (ctx.wants(0)) {
    Tensor da(DType::f32, ctx.in(0).shape());
    float* to = da.write<float>().data();
    if (p.transpose_a) {
      gemm(ctx.threads, p.transpose_b, true, p.k, p.m, p.n, p.alpha, b, ldb, d, p.n, 0.0F, to, lda);
    } else {
      gemm(ctx.threads, false, !p.transpose_b, p.m, p.k, p.n, p.alpha, d, p.n, b, ldb, 0.0F, to, lda);
    }
    ctx.input_gradients[0] = std::move(da);
  }
  if (ctx.wants(1)) {
    Tensor db(DType::f32, ctx.in(1).shape());
    float* to = db.write<float>().data();
    if (p.transpose_b) {
      gemm(ctx.threads, true, p.transpose_a, p.n, p.k, p.m, p.alpha, d, p.n, a, lda, 0.0F, to, ldb);
    } else {
      gemm(ctx.threads, !p.transpose_a, false, p.k, p.n, p.m, p.alpha, a, lda, d, p.n, 0.0F, to, ldb);
    }
    ctx.input_gradients[1] = std::move(db);
  }
  if (ctx.wants(2)) {
    Tensor dc(DType::f32, ctx.in(2).shape());
    std::vector<double> sums(at(dc.count()), 0.0);
    for (std::int64_t i = 0; i < p.m; ++i) {
      for (std::int64_t j = 0; j < p.n; ++j)
        sums[at(i * p.c_row + j * p.c_column)] += static_cast<double>(d[i * p.n + j]);
    }
    const auto to = dc.write<float>();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = p.beta * static_cast<float>(sums[i]);
    ctx.input_gradients[2] = std::move(dc);
  }
}

}  // namespace

constinit const OpDef Gemm{"Gemm", "", 1, infer, forward, backward};

}  // namespace qtool::op

// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/matmul.h"

#include <algorithm>
#include <type_traits>

#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool {
namespace {

// Products of this many multiplications keep one thread busy; larger ones are cut by gemm() itself.
constexpr std::int64_t work_per_task = 1 << 19;

struct Sides {
  Shape a, b;  // at least 2-D
  bool drop_row = false, drop_column = false;
};

Sides two_dimensional(const Shape& a, const Shape& b) {
  require(!a.empty() && !b.empty(), "a matrix product needs operands of rank 1 or more, not scalars");
  Sides s{a, b, a.size() == 1, b.size() == 1};
  if (s.drop_row) s.a.insert(s.a.begin(), 1);
  if (s.drop_column) s.b.push_back(1);
  return s;
}

Shape finish(Shape batch, const Sides& s, std::int64_t m, std::int64_t n) {
  if (!s.drop_row) batch.push_back(m);
  if (!s.drop_column) batch.push_back(n);
  return batch;
}

[[noreturn]] void do_not_fit(const Shape& a, const Shape& b) {
  throw Error(Code::input, "a matrix product of shapes " + to_string(a) + " and " + to_string(b) + " is not defined");
}

/// Integers wrap around, as the standard leaves open and runtimes do.
template <class T>
void multiply_integers(Threads& threads, const MatMulPlan& p, const T* a, const T* b, T* c) {
  using U = std::make_unsigned_t<std::conditional_t<sizeof(T) < 4, std::int32_t, T>>;
  const std::int64_t grain = std::max<std::int64_t>(1, work_per_task / std::max<std::int64_t>(1, p.n * p.k));
  threads.for_each(p.batches() * p.m, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<U> row(at(p.n));
    for (std::int64_t r = begin; r < end; ++r) {
      std::fill(row.begin(), row.end(), U{0});
      const T* x = a + p.a_offsets[at(r / p.m)] + r % p.m * p.k;
      const T* y = b + p.b_offsets[at(r / p.m)];
      for (std::int64_t l = 0; l < p.k; ++l) {
        for (std::int64_t j = 0; j < p.n; ++j) {
          row[at(j)] += static_cast<U>(x[l]) * static_cast<U>(y[l * p.n + j]);
        }
      }
      for (std::int64_t j = 0; j < p.n; ++j) c[r * p.n + j] = static_cast<T>(row[at(j)]);
    }
  });
}

}  // namespace

MatMulPlan plan_matmul(const Shape& a, const Shape& b, bool transpose_a, bool transpose_b) {
  const Sides s = two_dimensional(a, b);
  MatMulPlan p;
  p.transpose_a = transpose_a && !s.drop_row;
  p.transpose_b = transpose_b && !s.drop_column;
  const std::size_t ra = s.a.size(), rb = s.b.size();
  p.m = s.a[p.transpose_a ? ra - 1 : ra - 2];
  p.k = s.a[p.transpose_a ? ra - 2 : ra - 1];
  p.n = s.b[p.transpose_b ? rb - 2 : rb - 1];
  if (p.k != s.b[p.transpose_b ? rb - 1 : rb - 2]) do_not_fit(a, b);

  const std::size_t rank = std::max(ra, rb) - 2;
  Shape batch(rank, 1);
  std::vector<std::int64_t> a_step(rank, 0), b_step(rank, 0);
  std::int64_t a_size = p.m * p.k, b_size = p.k * p.n;
  for (std::size_t i = 0; i < rank; ++i) {  // from the last axis to the first
    const std::size_t axis = rank - 1 - i;
    const std::int64_t da = i + 2 < ra ? s.a[ra - 3 - i] : 1, db = i + 2 < rb ? s.b[rb - 3 - i] : 1;
    if (da != db && da != 1 && db != 1) do_not_fit(a, b);
    batch[axis] = da == 1 ? db : da;
    a_step[axis] = da == 1 ? 0 : a_size;
    b_step[axis] = db == 1 ? 0 : b_size;
    a_size *= da;
    b_size *= db;
  }
  p.output = finish(batch, s, p.m, p.n);
  element_count(p.output);  // refuses what overflows
  const std::int64_t batches = element_count(batch);
  if (batches > 0 && p.m > 0 && p.k > 0 && a_size == batches * p.m * p.k && b_size == p.k * p.n && !p.transpose_a) {
    p.m *= batches;  // one B for all: the stack of A is one tall matrix
    p.a_offsets = p.b_offsets = {0};
    return p;
  }
  p.a_offsets.reserve(at(batches));
  p.b_offsets.reserve(at(batches));
  std::vector<std::int64_t> index(rank, 0);
  std::int64_t ao = 0, bo = 0;
  for (std::int64_t t = 0; t < batches; ++t) {
    p.a_offsets.push_back(ao);
    p.b_offsets.push_back(bo);
    for (std::size_t axis = rank; axis-- > 0;) {
      ao += a_step[axis];
      bo += b_step[axis];
      if (++index[axis] < batch[axis]) break;
      ao -= a_step[axis] * batch[axis];
      bo -= b_step[axis] * batch[axis];
      index[axis] = 0;
    }
  }
  return p;
}

Shape infer_matmul(const Shape& a, const Shape& b, bool transpose_a, bool transpose_b) {
  const Sides s = two_dimensional(a, b);
  const std::size_t ra = s.a.size(), rb = s.b.size(), rank = std::max(ra, rb) - 2;
  Shape batch(rank, 1);
  for (std::size_t i = 0; i < rank; ++i) {
    const std::int64_t da = i + 2 < ra ? s.a[ra - 3 - i] : 1, db = i + 2 < rb ? s.b[rb - 3 - i] : 1;
    if (da == 1 || (da < 0 && db > 1)) {
      batch[rank - 1 - i] = db;
    } else {
      batch[rank - 1 - i] = da;
    }
  }
  return finish(batch, s, s.a[transpose_a && !s.drop_row ? ra - 1 : ra - 2],
                s.b[transpose_b && !s.drop_column ? rb - 2 : rb - 1]);
}

template <class T>
void multiply_stacks(Threads& threads, const MatMulPlan& p, T alpha, const T* a, const T* b, T* c) {
  const std::int64_t lda = p.transpose_a ? p.m : p.k, ldb = p.transpose_b ? p.k : p.n;
  const auto one = [&](std::int64_t t) {
    gemm(threads, p.transpose_a, p.transpose_b, p.m, p.n, p.k, alpha, a + p.a_offsets[at(t)],
         std::max<std::int64_t>(lda, 1), b + p.b_offsets[at(t)], std::max<std::int64_t>(ldb, 1), T(0),
         c + t * p.m * p.n, std::max<std::int64_t>(p.n, 1));
  };
  const std::int64_t work = std::max<std::int64_t>(1, p.m * p.n * std::max<std::int64_t>(p.k, 1));
  if (p.batches() == 1 || (work > 16 * work_per_task && p.batches() < 8)) {
    for (std::int64_t t = 0; t < p.batches(); ++t) one(t);
    return;
  }
  threads.for_each(p.batches(), std::max<std::int64_t>(1, work_per_task / work),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t t = begin; t < end; ++t) one(t);
                   });
}

template void multiply_stacks(Threads&, const MatMulPlan&, float, const float*, const float*, float*);
template void multiply_stacks(Threads&, const MatMulPlan&, double, const double*, const double*, double*);

void multiply_stacks_backward(Threads& threads, const MatMulPlan& p, float alpha, const float* a, const float* b,
                              const float* dc, float* da, std::int64_t a_count, float* db, std::int64_t b_count) {
  const std::int64_t lda = p.transpose_a ? p.m : p.k, ldb = p.transpose_b ? p.k : p.n;
  // dA = dC op(B)^T and dB = op(A)^T dC, each transposed when its operand was. A matrix that met several others gets
  // their sum, in the order of the stack.
  const auto one_a = [&](std::int64_t t, float beta) {
    float* to = da + p.a_offsets[at(t)];
    const float *y = b + p.b_offsets[at(t)], *d = dc + t * p.m * p.n;
    if (p.transpose_a) {
      gemm(threads, p.transpose_b, true, p.k, p.m, p.n, alpha, y, ldb, d, p.n, beta, to, lda);
    } else {
      gemm(threads, false, !p.transpose_b, p.m, p.k, p.n, alpha, d, p.n, y, ldb, beta, to, lda);
    }
  };
  const auto one_b = [&](std::int64_t t, float beta) {
    float* to = db + p.b_offsets[at(t)];
    const float *x = a + p.a_offsets[at(t)], *d = dc + t * p.m * p.n;
    if (p.transpose_b) {
      gemm(threads, true, p.transpose_a, p.n, p.k, p.m, alpha, d, p.n, x, lda, beta, to, ldb);
    } else {
      gemm(threads, !p.transpose_a, false, p.k, p.n, p.m, alpha, x, lda, d, p.n, beta, to, ldb);
    }
  };
  const auto all = [&](const auto& one, float* to, std::int64_t count, std::int64_t size) {
    if (to == nullptr || count == 0) return;
    const bool shared = count != p.batches() * size;
    if (shared) std::fill(to, to + count, 0.0F);
    if (shared || p.batches() == 1) {
      for (std::int64_t t = 0; t < p.batches(); ++t) one(t, shared ? 1.0F : 0.0F);
      return;
    }
    const std::int64_t work = std::max<std::int64_t>(1, p.m * p.n * p.k);
    threads.for_each(p.batches(), std::max<std::int64_t>(1, work_per_task / work),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t t = begin; t < end; ++t) one(t, 0.0F);
                     });
  };
  all(one_a, da, a_count, p.m * p.k);
  all(one_b, db, b_count, p.k * p.n);
}

namespace op {
namespace {

void infer_product(InferContext& c, bool transpose_a, bool transpose_b) {
  Type t;
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  if (c.in(0).known_rank && c.in(1).known_rank && !c.in(0).shape.empty() && !c.in(1).shape.empty()) {
    t.known_rank = true;
    t.shape = infer_matmul(c.in(0).shape, c.in(1).shape, transpose_a, transpose_b);
  }
  c.out(0, t);
}

void matmul_infer(InferContext& c) { infer_product(c, false, false); }

void matmul(const OpContext& c) {
  const Tensor &a = c.in(0), &b = c.in(1);
  const MatMulPlan plan = plan_matmul(a.shape(), b.shape());
  if (is_integer(a.dtype())) {
    require(a.dtype() == b.dtype(), "the operands of MatMul differ in type");
    Tensor y(a.dtype(), plan.output);
    op::for_integer_type(a.dtype(), [&](auto zero) {
      using T = decltype(zero);
      multiply_integers<T>(c.threads, plan, a.read<T>().data(), b.read<T>().data(), y.write<T>().data());
    });
    return c.out(0, std::move(y));
  }
  const Tensor x = compute_float(a, "operand A"), w = compute_float(b, "operand B");
  Tensor y = Tensor::unset(x.dtype(), plan.output);
  op::for_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    multiply_stacks<T>(c.threads, plan, T(1), x.read<T>().data(), w.read<T>().data(), y.write<T>().data());
  });
  c.out(0, op::narrowed(std::move(y), a.dtype()));
}

void product_backward(BackwardContext& c, const MatMulPlan& plan, float alpha) {
  Tensor da, db;
  if (c.wants(0)) da = Tensor(DType::f32, c.in(0).shape());
  if (c.wants(1)) db = Tensor(DType::f32, c.in(1).shape());
  multiply_stacks_backward(c.threads, plan, alpha, c.in(0).read<float>().data(), c.in(1).read<float>().data(),
                           c.grad(0).read<float>().data(), da ? da.write<float>().data() : nullptr, da.count(),
                           db ? db.write<float>().data() : nullptr, db.count());
  if (da) c.input_gradients[0] = std::move(da);
  if (db) c.input_gradients[1] = std::move(db);
}

void matmul_backward(BackwardContext& c) {
  if (c.grad(0).empty()) return;
  product_backward(c, plan_matmul(c.in(0).shape(), c.in(1).shape()), 1.0F);
}

struct FusedAttributes {
  bool transpose_a, transpose_b;
  float alpha;
};

FusedAttributes fused_attributes(const Attrs& attrs) {
  require(attrs.get("transBatchA", std::int64_t{0}) == 0 && attrs.get("transBatchB", std::int64_t{0}) == 0,
          "FusedMatMul with transBatchA or transBatchB is not supported");
  return {attrs.get("transA", std::int64_t{0}) != 0, attrs.get("transB", std::int64_t{0}) != 0,
          attrs.get("alpha", 1.0F)};
}

void fused_infer(InferContext& c) {
  const FusedAttributes f = fused_attributes(c.attrs());
  infer_product(c, f.transpose_a, f.transpose_b);
}

void fused_matmul(const OpContext& c) {
  const FusedAttributes f = fused_attributes(c.attrs());
  const Tensor a = compute_float(c.in(0), "operand A"), b = compute_float(c.in(1), "operand B");
  const MatMulPlan plan = plan_matmul(a.shape(), b.shape(), f.transpose_a, f.transpose_b);
  Tensor y = Tensor::unset(a.dtype(), plan.output);
  op::for_float_type(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    multiply_stacks<T>(c.threads, plan, T(f.alpha), a.read<T>().data(), b.read<T>().data(), y.write<T>().data());
  });
  c.out(0, op::narrowed(std::move(y), c.in(0).dtype()));
}

void fused_backward(BackwardContext& c) {
  if (c.grad(0).empty()) return;
  const FusedAttributes f = fused_attributes(c.attrs());
  product_backward(c, plan_matmul(c.in(0).shape(), c.in(1).shape(), f.transpose_a, f.transpose_b), f.alpha);
}

}  // namespace

constinit const OpDef MatMul{"MatMul", "", 1, matmul_infer, matmul, matmul_backward};
constinit const OpDef ms_FusedMatMul{"FusedMatMul", "com.microsoft", 1, fused_infer, fused_matmul, fused_backward};

}  // namespace op
}  // namespace qtool

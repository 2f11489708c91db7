// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/attention.h"

#include <cmath>

#include "calib/linalg.h"
#include "calib/ops/softmax.h"

namespace qtool::op {
namespace {

// Scores of one block of queries: a megabyte of floats at most, but enough rows to keep a product busy.
constexpr std::int64_t scores_per_block = 1 << 18;

std::int64_t queries_per_block(std::int64_t keys) {
  return std::clamp<std::int64_t>(scores_per_block / std::max<std::int64_t>(keys, 1), 16, 256);
}

template <class T>
constexpr T minus_infinity = -std::numeric_limits<T>::infinity();

template <class T>
void cap(T* x, std::int64_t n, T limit) {
  if constexpr (std::is_same_v<T, float>) {
    with_widest_vectors([=]() QTOOL_INLINE {
      for (std::int64_t i = 0; i < n; ++i) x[i] = limit * vector_math::tanh(x[i] / limit);
    });
  } else {
    for (std::int64_t i = 0; i < n; ++i) x[i] = limit * std::tanh(x[i] / limit);
  }
}

/// Queries [first, last) of one head of one batch.
template <class T>
class Block {
 public:
  Block(Threads& threads, const AttentionProblem<T>& a, std::int64_t b, std::int64_t h, std::int64_t first,
        std::int64_t last)
      : threads_(threads), a_(a), b_(b), h_(h), kv_(h / (a.heads / a.kv_heads)), first_(first), rows_(last - first) {
    for (std::int64_t s = first; s < last; ++s) {
      KeyRange r{0, a.keys};
      if (a.visible) {
        r = a.visible(b, s);
        r.begin = std::clamp<std::int64_t>(r.begin, 0, a.keys);
        r.end = std::clamp<std::int64_t>(r.end, r.begin, a.keys);
      }
      seen_.push_back(r);
      if (r.begin == r.end) continue;
      all_ = all_.begin == all_.end ? r : KeyRange{std::min(all_.begin, r.begin), std::max(all_.end, r.end)};
    }
    if (a.kept != nullptr) all_ = {0, a.keys};  // whoever looks at scores wants all of them
  }

  void run(std::vector<T>& scores) {
    const std::int64_t n = all_.end - all_.begin;
    if (n == 0) {
      for (std::int64_t r = 0; r < rows_; ++r) std::fill_n(a_.y.at(b_, h_, first_ + r), a_.value_width, T(0));
      return;
    }
    weights(scores, nullptr);
    gemm(threads_, false, false, rows_, a_.value_width, n, T(1), scores.data(), n, a_.v.at(b_, kv_, all_.begin),
         a_.v.row, T(0), a_.y.at(b_, h_, first_), a_.y.row);
  }

  /// Adds to the gradients of Q, K and V.
  void run_back(const Heads<const T*>& dy, const AttentionGradients<T>& g) {
    const std::int64_t n = all_.end - all_.begin;
    if (n == 0) return;
    std::vector<T> p, capped, ds(at(rows_ * n));
    weights(p, a_.softcap > 0 ? &capped : nullptr);
    const T* from = dy.at(b_, h_, first_);
    gemm(threads_, true, false, n, a_.value_width, rows_, T(1), p.data(), n, from, dy.row, T(1),
         g.v.at(b_, kv_, all_.begin), g.v.row);
    gemm(threads_, false, true, rows_, n, a_.value_width, T(1), from, dy.row, a_.v.at(b_, kv_, all_.begin), a_.v.row,
         T(0), ds.data(), n);
    for (std::int64_t r = 0; r < rows_; ++r) {
      T *row = ds.data() + r * n, *weight = p.data() + r * n;
      double sum = 0;
      for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(row[i]) * static_cast<double>(weight[i]);
      for (std::int64_t i = 0; i < n; ++i) row[i] = weight[i] * (row[i] - static_cast<T>(sum));
    }
    for (std::size_t i = 0; i < capped.size(); ++i) {
      const T share = capped[i] / a_.softcap;
      ds[i] *= 1 - share * share;
    }
    gemm(threads_, false, false, rows_, a_.width, n, a_.scale, ds.data(), n, a_.k.at(b_, kv_, all_.begin), a_.k.row,
         T(1), g.q.at(b_, h_, first_), g.q.row);
    gemm(threads_, true, false, n, a_.width, rows_, a_.scale, ds.data(), n, a_.q.at(b_, h_, first_), a_.q.row, T(1),
         g.k.at(b_, kv_, all_.begin), g.k.row);
  }

 private:
  /// softmax(cap(scale Q K^T) + bias). `capped`: also the scores before the bias.
  void weights(std::vector<T>& scores, std::vector<T>* capped) {
    const std::int64_t n = all_.end - all_.begin;
    scores.resize(at(rows_ * n));
    T* s = scores.data();
    gemm(threads_, false, true, rows_, n, a_.width, a_.scale, a_.q.at(b_, h_, first_), a_.q.row,
         a_.k.at(b_, kv_, all_.begin), a_.k.row, T(0), s, n);
    keep(Stage::scaled, s);
    if (a_.softcap > 0) cap(s, rows_ * n, a_.softcap);
    keep(Stage::capped, s);
    if (capped != nullptr) *capped = scores;
    for (std::int64_t r = 0; r < rows_; ++r) hide(r, s + r * n);
    keep(Stage::biased, s);
    for (std::int64_t r = 0; r < rows_; ++r) weigh(r, s + r * n);
    keep(Stage::softmax, s);
  }

  void keep(Stage stage, const T* s) const {
    if (a_.kept == nullptr || a_.stage != stage) return;
    std::copy_n(s, rows_ * a_.keys, a_.kept + ((b_ * a_.heads + h_) * a_.queries + first_) * a_.keys);
  }

  void hide(std::int64_t r, T* row) const {
    if (a_.bias) a_.bias(b_, h_, first_ + r, all_, row);
    const KeyRange seen = seen_[at(r)];
    if (seen.begin == seen.end) {
      std::fill_n(row, all_.end - all_.begin, minus_infinity<T>);
      return;
    }
    std::fill(row, row + (seen.begin - all_.begin), minus_infinity<T>);
    std::fill(row + (seen.end - all_.begin), row + (all_.end - all_.begin), minus_infinity<T>);
  }

  void weigh(std::int64_t r, T* row) const {
    const KeyRange seen = seen_[at(r)];
    T* first = row + (seen.begin - all_.begin);
    const std::int64_t n = seen.end - seen.begin;
    if (std::all_of(first, first + n, [](T v) { return v == minus_infinity<T>; })) {
      std::fill_n(row, all_.end - all_.begin, T(0));
      return;
    }
    std::fill(row, first, T(0));
    softmax_row(first, first, n, 1, a_.sinks != nullptr ? a_.sinks[h_] : minus_infinity<T>);
    std::fill(first + n, row + (all_.end - all_.begin), T(0));
  }

  Threads& threads_;
  const AttentionProblem<T>& a_;
  std::int64_t b_, h_, kv_, first_, rows_;
  std::vector<KeyRange> seen_;  // by query
  KeyRange all_;                // what they see together
};

template <class T>
void check(const AttentionProblem<T>& a) {
  require(a.kv_heads > 0 && a.heads % a.kv_heads == 0, std::to_string(a.heads) + " heads of queries cannot share " +
                                                           std::to_string(a.kv_heads) + " heads of keys evenly");
  require(a.width > 0, "heads of no width have no scores");
}

}  // namespace

template <class T>
void attend(Threads& threads, const AttentionProblem<T>& a) {
  check(a);
  const std::int64_t step = queries_per_block(a.keys), blocks = (a.queries + step - 1) / step;
  threads.for_each(a.batch * a.heads * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> scores;
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = t % blocks * step, head = t / blocks;
      Block<T>(threads, a, head / a.heads, head % a.heads, first, std::min(first + step, a.queries)).run(scores);
    }
  });
}

template <class T>
void attend_backward(Threads& threads, const AttentionProblem<T>& a, const Heads<const T*>& dy,
                     const AttentionGradients<T>& g) {
  check(a);
  const std::int64_t step = queries_per_block(a.keys), group = a.heads / a.kv_heads;
  threads.for_each(a.batch * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {  // all that adds to one head of keys, in a fixed order
      for (std::int64_t h = i % a.kv_heads * group; h < (i % a.kv_heads + 1) * group; ++h) {
        for (std::int64_t first = 0; first < a.queries; first += step) {
          Block<T>(threads, a, i / a.kv_heads, h, first, std::min(first + step, a.queries)).run_back(dy, g);
        }
      }
    }
  });
}

template <class T>
ScoreBias<T>::ScoreBias(const Tensor& mask, const AttentionProblem<T>& a) {
  const Shape wanted{a.batch, a.heads, a.queries, a.keys};
  Shape shape = mask.shape();
  const std::string what = "a mask of shape " + to_string(shape) + " does not fit scores of shape " + to_string(wanted);
  require(!shape.empty() && shape.size() <= 4, what);
  shape.insert(shape.begin(), 4 - shape.size(), 1);
  given_ = shape[3];
  require(given_ <= a.keys, what);
  std::int64_t step = given_;
  for (std::size_t d = 3; d-- > 0;) {
    require(shape[d] == wanted[d] || shape[d] == 1, what);
    steps_[d] = shape[d] == 1 ? 0 : step;
    step *= shape[d];
  }
  if (mask.dtype() == DType::boolean) {
    values_ = Tensor(DTypeOf<T>::value, mask.shape());
    const auto from = mask.read<bool>();
    const auto to = values_.write<T>();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = from[i] ? T(0) : minus_infinity<T>;
    return;
  }
  values_ = compute_float(mask, "the mask");
  if (values_.dtype() != DTypeOf<T>::value) refuse_type(values_.dtype());
}

template <class T>
void ScoreBias<T>::add(std::int64_t b, std::int64_t h, std::int64_t query, KeyRange keys, T* scores) const {
  const T* from = values_.read<T>().data() + b * steps_[0] + h * steps_[1] + query * steps_[2];
  const std::int64_t last = std::clamp(given_, keys.begin, keys.end);
  for (std::int64_t t = keys.begin; t < last; ++t) scores[t - keys.begin] += from[t];
  std::fill(scores + (last - keys.begin), scores + (keys.end - keys.begin), minus_infinity<T>);
}

template <class T>
Tensor appended(Threads& threads, const Tensor& past, const Heads<const T*>& rows, const Shape& shape) {
  const std::int64_t heads = shape[1], total = shape[2], width = shape[3];
  const std::int64_t before = past.empty() ? 0 : past.shape()[2];
  Tensor out(DTypeOf<T>::value, shape);
  T* to = out.write<T>().data();
  const T* from = before == 0 ? nullptr : past.read<T>().data();
  threads.for_each(shape[0] * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(from + i * before * width, before * width, to + i * total * width);
      for (std::int64_t r = before; r < total; ++r) {
        std::copy_n(rows.at(i / heads, i % heads, r - before), width, to + (i * total + r) * width);
      }
    }
  });
  return out;
}

template void attend(Threads&, const AttentionProblem<float>&);
template void attend(Threads&, const AttentionProblem<double>&);
template void attend_backward(Threads&, const AttentionProblem<float>&, const Heads<const float*>&,
                              const AttentionGradients<float>&);
template class ScoreBias<float>;
template class ScoreBias<double>;
template Tensor appended(Threads&, const Tensor&, const Heads<const float*>&, const Shape&);
template Tensor appended(Threads&, const Tensor&, const Heads<const double*>&, const Shape&);

}  // namespace qtool::op

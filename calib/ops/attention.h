// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention by heads (Vaswani et al., 2017, arXiv:1706.03762), for every operator that ends in it:
// Y = softmax(cap(scale Q K^T) + bias) V. Products run on gemm() in blocks of queries; keys that no query of a block
// sees are left out of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "calib/ops/operand.h"

namespace qtool::op {

/// Element i of row r of head h of batch b: data[b * batch + h * head + r * row + i].
template <class P>
struct Heads {
  P data{};
  std::int64_t batch = 0, head = 0, row = 0;

  P at(std::int64_t b, std::int64_t h, std::int64_t r) const { return data + b * batch + h * head + r * row; }
  /// Dense [batch, heads, rows, width].
  static Heads by_head(P data, std::int64_t heads, std::int64_t rows, std::int64_t width) {
    return {data, heads * rows * width, rows * width, width};
  }
  /// [batch, rows, pitch], where the heads lie one after the other in a row.
  static Heads by_row(P data, std::int64_t rows, std::int64_t pitch, std::int64_t width) {
    return {data, rows * pitch, width, pitch};
  }
};

/// Keys [begin, end).
struct KeyRange {
  std::int64_t begin = 0, end = 0;
};

/// What an attention operator can put out besides Y: the scores after one of its stages.
enum class Stage : std::uint8_t { scaled, capped, biased, softmax };

template <class T>
struct AttentionProblem {
  std::int64_t batch = 0, heads = 0, kv_heads = 0;  // head h of the queries reads head h / (heads / kv_heads)
  std::int64_t queries = 0, keys = 0;
  std::int64_t width = 0, value_width = 0;  // of one head
  T scale = 1, softcap = 0;                 // cap(s) = softcap tanh(s / softcap); 0: none
  Heads<const T*> q, k, v;
  Heads<T*> y;
  /// Keys that a query of a batch sees; the others get no weight. Absent: all.
  std::function<KeyRange(std::int64_t b, std::int64_t query)> visible;
  /// Adds to the scores of `keys` for one query; scores[0] belongs to keys.begin. Absent: nothing.
  std::function<void(std::int64_t b, std::int64_t h, std::int64_t query, KeyRange keys, T* scores)> bias;
  const T* sinks = nullptr;  // [heads]: a score that takes part in the sum of the softmax and nowhere else
  T* kept = nullptr;         // [batch, heads, queries, keys]: scores after `stage`
  Stage stage = Stage::scaled;
};

/// Fills y (and kept). A query that sees no key, or none but with a score of -infinity, gets zeros.
template <class T>
void attend(Threads&, const AttentionProblem<T>&);

/// Where gradients are added to, in the layout of the operands.
template <class T>
struct AttentionGradients {
  Heads<T*> q, k, v;
};

/// Adds the gradients of Q, K and V, given that of y. Masks and sinks get none. T: float.
template <class T>
void attend_backward(Threads&, const AttentionProblem<T>&, const Heads<const T*>& dy, const AttentionGradients<T>&);

/// A tensor [rank 1 to 4] that broadcasts to [batch, heads, queries, keys], to be added to scores.
template <class T>
class ScoreBias {
 public:
  /// Booleans: 0 where true, -infinity where false. A last axis shorter than `keys` hides the keys beyond it.
  /// Error(Code::input) where the shape does not fit.
  ScoreBias(const Tensor& mask, const AttentionProblem<T>&);
  void add(std::int64_t b, std::int64_t h, std::int64_t query, KeyRange keys, T* scores) const;

 private:
  Tensor values_;
  std::int64_t given_ = 0;
  std::int64_t steps_[3] = {0, 0, 0};
};

/// [batch, heads, past + rows, width]: `past` [batch, heads, past, width] (may be empty) followed by `rows`.
template <class T>
Tensor appended(Threads&, const Tensor& past, const Heads<const T*>& rows, const Shape& shape);

}  // namespace qtool::op

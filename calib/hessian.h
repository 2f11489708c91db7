// SPDX-License-Identifier: Apache-2.0
// Hessian: what the inputs of a linear layer say about the price of an error in its weights,
//
//   H = (2 / T) X^T X      X [T, n]: one row per token, pixel or time step    (gptq.md section 2)
//
// so that 1/2 tr(E H E^T) is the mean squared error of the outputs. Rows stream in; products of a few hundred rows are
// summed in float32 and their sums in double, which is exact enough to be called double (gptq.md 3.2). The cut
// into such parts goes by rows alone, so that batches and threads do not show in the bytes.
#pragma once

#include <cstdint>
#include <span>

#include "calib/gram_tile.h"
#include "formats/base/bytes.h"
#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool {

class Hessian {
 public:
  /// `format`: what rows are rounded to before they are multiplied.
  explicit Hessian(std::int64_t n, GramFormat format = GramFormat::f32);
  std::int64_t width() const { return n_; }
  /// `rows` of n numbers each, one after the other. Rows with NaN or infinity are left out and counted.
  void add(std::span<const float> rows, Threads&);
  /// The rows of another one of the same width as well.
  void merge(const Hessian&, Threads&);
  /// As many rows whose inputs have these mean squares, and nothing to do with one another. `squares`: n of them.
  void add_independent(std::span<const double> squares, std::int64_t rows);
  /// Rows that were taken up, and those that were left out.
  std::int64_t rows() const { return rows_; }
  std::int64_t left_out() const { return left_out_; }
  /// (2 / T) X^T X as float64 [n, n]. Requires: rows() > 0.
  Tensor matrix(Threads&) const;

  void write(ByteWriter&) const;
  /// Of one of the same width.
  void read(ByteReader&);

 private:
  void sum(const float* rows, std::int64_t count, std::span<double> sums, Threads&) const;
  Tensor all(Threads&) const;

  std::int64_t n_, part_;  // rows that are laid out at a time
  GramFormat format_;
  Tensor sums_;     // tiles of the upper triangle, one after the other
  Tensor waiting_;  // [part, n]: rows that do not fill a part yet
  std::int64_t waits_ = 0, rows_ = 0, left_out_ = 0;
};

}  // namespace qtool

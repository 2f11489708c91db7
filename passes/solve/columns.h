// SPDX-License-Identifier: Apache-2.0
// quantize_columns: GPTQ's loop (arXiv 2210.17323), columns one by one, each rounded after it took up the errors of
// those before it (gptq.md section 4, steps C and D, the U form):
//
//   w_c = W_c - sum over j < c of (Q - W)_j U_jc,   Q_c = nearest(w_c)
//
// Rows are independent, and columns are taken in blocks whose feedback is one product: the block is a matter of speed
// alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "formats/base/block_vector.h"
#include "formats/base/threads.h"
#include "passes/solve/conditioned.h"
#include "passes/solve/grid.h"

namespace qtool::solve {

/// W [m, n] by columns: w[c * m + r].
struct Solved {
  BlockVector<std::int16_t> codes;  // by column, in the columns' own order
  BlockVector<float> values;        // Q, likewise
  std::vector<double> loss;         // of each row: 1/2 e Hd e^T, exact by an identity of the factors
};

struct ColumnOptions {
  std::int64_t block = 128;
  /// Scales of each group are fitted when its first column comes up, on weights that took up the errors so far: else
  /// the grid has them all. Requires: columns of a plane are visited one after the other.
  bool fit_on_the_way = false;
  Clip clip;                        // of these fits
  std::span<const double> hessian;  // [n, n], for these fits; may be empty for Clip::Kind::minmax and mse
};

Solved quantize_columns(Threads&, std::span<const float> w, Grid& grid, const Conditioned& hessian,
                        const ColumnOptions& options);

}  // namespace qtool::solve

// SPDX-License-Identifier: Apache-2.0
// The products of recurrent operators, and the gates of usual cells in one loop.
#include <array>
#include <limits>

#include "calib/linalg.h"
#include "calib/ops/conv_tile.h"
#include "calib/ops/recurrent.h"
#include "calib/ops/vector_math.h"
#include "formats/base/widest.h"

namespace qtool::op {
namespace {

/// to[columns, rows] = the transpose of from[rows, columns].
void transpose(const float* from, std::int64_t rows, std::int64_t columns, float* to) {
  constexpr std::int64_t block = 16;  // of lines that the caches hold together
  for (std::int64_t i0 = 0; i0 < rows; i0 += block) {
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t i = i0; i < std::min(i0 + block, rows); ++i) to[j * rows + i] = from[i * columns + j];
    }
  }
}

/// Matrix d of `weights` [directions, rows, columns], transposed; null where the executor keeps none.
const float* kept_transposed(Prepared* kept, const Tensor& weights, std::int64_t d) {
  if (kept == nullptr) return nullptr;
  const Shape& s = weights.shape();
  const std::int64_t size = s[1] * s[2];
  return size * d + kept->get([&](float* to) {
    for (std::int64_t i = 0; i < s[0]; ++i)
      transpose(weights.read<float>().data() + i * size, s[1], s[2], to + i * size);
  });
}

}  // namespace

std::int64_t recurrent_prepares(const Node&, std::size_t i, const Tensor& constant) {
  constexpr std::int64_t most = 4 << 20;
  const bool weights = (i == 1 || i == 2) && constant.rank() == 3 && is_float(constant.dtype());
  return weights && constant.count() <= most ? constant.count() : 0;
}

void project_inputs(const OpContext& ctx, const Cell& k, std::int64_t d, float* to) {
  const std::int64_t width = k.gates * k.hidden, rows = k.steps * k.batch;
  if (const float* bias = k.bias(d)) {
    for (std::int64_t i = 0; i < rows; ++i) std::copy_n(bias, width, to + i * width);
  }
  const float beta = k.b ? 1.0F : 0.0F, *x = k.x.read<float>().data();
  if (const float* w = kept_transposed(ctx.kept(1), k.w, d)) {
    gemm(ctx.threads, false, false, rows, width, k.inputs, 1.0F, x, k.inputs, w, width, beta, to, width);
  } else {
    gemm(ctx.threads, false, true, rows, width, k.inputs, 1.0F, x, k.inputs,
         k.w.read<float>().data() + d * width * k.inputs, k.inputs, beta, to, width);
  }
}

/// With several rows a library would lay R out again in every step, and with a small one its calls would take longer
/// than the product. One row of a large one it takes as it is, where the turned matrix is not kept.
void lay_out_recurrence(const OpContext& ctx, const Cell& k, std::int64_t d, Walker& s) {
  const ConvTiles& tiles = conv_tiles(widest_floats());
  const std::int64_t width = k.gates * k.hidden;
  constexpr std::int64_t small = 1 << 14, most = std::numeric_limits<std::int32_t>::max();
  if (tiles.compute == nullptr || k.hidden < tiles.lanes || width * k.hidden > most) return;
  s.r = kept_transposed(ctx.kept(2), k.r, d);
  if (s.r == nullptr) {
    if (k.steps < 2 || (k.batch == 1 && width * k.hidden > small)) return;
    s.own_r.resize(at(width * k.hidden));
    transpose(k.r.read<float>().data() + d * width * k.hidden, width, k.hidden, s.own_r.data());
    s.r = s.own_r.data();
  }
  for (std::int64_t i = 0; i < k.hidden; ++i) s.r_rows.push_back(static_cast<std::int32_t>(i * width));
}

void multiply_recurrence(const OpContext& ctx, const Cell& k, std::int64_t d, std::int64_t first, std::int64_t count,
                         const float* h, Walker& s) {
  for (std::int64_t row = 0; k.see != nullptr && row < k.batch; ++row) {
    if (position(k, d, s.step, row) >= 0) (*k.see)(first, {h + row * k.hidden, at(k.hidden)});
  }
  const std::int64_t columns = count * k.hidden;
  if (s.r == nullptr) {
    return gemm(ctx.threads, false, true, k.batch, columns, k.hidden, 1.0F, h, k.hidden,
                k.r.read<float>().data() + (d * k.gates + first) * k.hidden * k.hidden, k.hidden, 0.0F, s.share.data(),
                columns);
  }
  const ConvTiles& tiles = conv_tiles(widest_floats());
  ConvTile t;
  t.x = s.r + first * k.hidden;
  t.offsets = s.r_rows.data();
  t.depth = t.kernel_row = k.hidden;
  t.y_row = columns;
  const std::int64_t vectors = (columns + tiles.lanes - 1) / tiles.lanes;
  for (std::int64_t row = 0; row < k.batch; row += tiles.rows) {
    const auto rows = static_cast<int>(std::min<std::int64_t>(tiles.rows, k.batch - row));
    t.kernel = h + row * k.hidden;
    t.y = s.share.data() + row * columns;
    const std::int64_t most = tiles.most_vectors[rows - 1];
    for (std::int64_t v = 0; v < vectors; v += most) {
      const auto n = static_cast<int>(std::min(most, vectors - v));
      for (int i = 0; i < n; ++i) {
        t.x_at[i] = t.y_at[i] = std::min((v + i) * tiles.lanes, columns - tiles.lanes);  // the last one may overlap
      }
      tiles.compute(t, rows, n);
    }
  }
}

void usual_lstm_row(const float* x, const float* s, const float* b, std::int64_t hidden, float* c, float* h, float* y) {
  with_widest_vectors([=]() QTOOL_INLINE {
    const std::int64_t n = hidden;
    QTOOL_INDEPENDENT
    for (std::int64_t j = 0; j < n; ++j) {
      const float i = vector_math::logistic(x[j] + b[j] + s[j]);
      const float o = vector_math::logistic(x[n + j] + b[n + j] + s[n + j]);
      const float forget = vector_math::logistic(x[2 * n + j] + b[2 * n + j] + s[2 * n + j]);
      const float candidate = vector_math::tanh(x[3 * n + j] + b[3 * n + j] + s[3 * n + j]);
      const float cell = forget * c[j] + i * candidate;
      c[j] = cell;
      h[j] = y[j] = o * vector_math::tanh(cell);
    }
  });
}

void usual_gru_row(const float* x, const float* s, const float* b, std::int64_t hidden, float* h, float* y) {
  with_widest_vectors([=]() QTOOL_INLINE {
    const std::int64_t n = hidden;
    QTOOL_INDEPENDENT
    for (std::int64_t j = 0; j < n; ++j) {
      const float update = vector_math::logistic(x[j] + b[j] + s[j]);
      const float reset = vector_math::logistic(x[n + j] + b[n + j] + s[n + j]);
      const float candidate = vector_math::tanh(x[2 * n + j] + reset * (b[2 * n + j] + s[2 * n + j]));
      h[j] = y[j] = (1 - update) * candidate + update * h[j];
    }
  });
}

}  // namespace qtool::op

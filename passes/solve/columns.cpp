// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/columns.h"

#include <algorithm>
#include <cstring>

#include "calib/linalg.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool::solve {
namespace {

constexpr std::int64_t tile = 64;  // rows that stay in the nearest cache while a block of columns goes by

/// to[r] += u[0] d[r] + u[1] d[tile + r] + ... for all rows of a tile, one after the other in registers.
template <class T>
void take_up(std::int64_t terms, const T* u, const T* d, T* to) {
  with_widest_vectors([&]() QTOOL_INLINE {
    using Lanes __attribute__((vector_size(64))) = T;
    constexpr std::int64_t lanes = 64 / sizeof(T), count = tile / lanes;
    Lanes sum[count], next;
    for (std::int64_t v = 0; v < count; ++v) std::memcpy(&sum[v], to + v * lanes, sizeof next);
    for (std::int64_t j = 0; j < terms; ++j, d += tile) {
#pragma GCC unroll 8
      for (std::int64_t v = 0; v < count; ++v) {
        std::memcpy(&next, d + v * lanes, sizeof next);
        sum[v] += u[j] * next;
      }
    }
    for (std::int64_t v = 0; v < count; ++v) std::memcpy(to + v * lanes, &sum[v], sizeof next);
  });
}

template <class T>
class Loop {
 public:
  Loop(Threads& threads, std::span<const float> w, Grid& grid, const Conditioned& h, const ColumnOptions& options)
      : threads_(threads),
        w_(w),
        grid_(grid),
        h_(h),
        options_(options),
        m_(grid.rows()),
        n_(h.n),
        u_(h.u.read<T>().data()),
        delta_(static_cast<std::size_t>(m_ * n_)) {
    QTOOL_ENSURE(static_cast<std::int64_t>(w.size()) == m_ * n_, "a weight per row and column");
    out_.codes.resize(w.size());
    out_.values.resize(w.size());
    out_.loss.resize(static_cast<std::size_t>(m_));
  }

  Solved run() {
    std::vector<T> feedback;
    for (std::int64_t begin = 0, end = 0; begin < n_; begin = end) {
      end = block_end(begin);
      const std::int64_t width = end - begin;
      feedback.assign(static_cast<std::size_t>(width * m_), T(0));
      if (begin > 0) {
        gemm(threads_, true, false, width, m_, begin, T(1), u_ + begin, n_, delta_.data(), m_, T(0), feedback.data(),
             m_);
      }
      block_.resize(static_cast<std::size_t>(width * width));
      for (std::int64_t j = 0; j < width; ++j) {
        const T* row = u_ + (begin + j) * n_ + begin;
        for (std::int64_t k = j + 1; k < width; ++k) block_[static_cast<std::size_t>(k * width + j)] = row[k];
      }
      threads_.for_each(m_, tile, [&](std::int64_t first, std::int64_t last) {
        rows(begin, end, first, last - first, feedback.data() + first);
      });
    }
    return std::move(out_);
  }

 private:
  std::int64_t column(std::int64_t place) const { return h_.order[static_cast<std::size_t>(place)]; }

  /// Whole groups, where they are fitted on the way.
  std::int64_t block_end(std::int64_t begin) const {
    std::int64_t end = std::min(n_, begin + options_.block);
    if (!options_.fit_on_the_way) return end;
    while (end < n_ && grid_.plane(column(end)) == grid_.plane(column(end - 1))) ++end;
    return end;
  }

  /// Columns [begin, end) for `count` rows from `first` on; feedback[k * m] is that of column begin + k from the blocks
  /// before this one.
  void rows(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t count, const T* feedback) {
    const std::int64_t width = end - begin;
    std::vector<T> own(static_cast<std::size_t>(width * tile));  // Q - W of this block
    T now[tile], value[tile], taken[tile] = {};
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t c = column(p), k = p - begin;
      const bool new_plane = p == 0 || grid_.plane(column(p - 1)) != grid_.plane(c);
      if (options_.fit_on_the_way && new_plane) fit(p, begin, end, first, count, feedback, own.data());
      const float* w = w_.data() + c * m_ + first;
      std::copy_n(feedback + k * m_, count, taken);
      take_up(k, block_.data() + k * width, own.data(), taken);
      with_widest_vectors([&]() QTOOL_INLINE {
        QTOOL_INDEPENDENT
        for (std::int64_t r = 0; r < count; ++r) now[r] = T(w[r]) - taken[r];
      });
      grid_.nearest(c, first, count, now, out_.codes.data() + c * m_ + first, value);
      float* q = out_.values.data() + c * m_ + first;
      double* loss = out_.loss.data() + first;
      const double half = 0.5 * h_.d[static_cast<std::size_t>(p)];
      T* delta = own.data() + k * tile;
      with_widest_vectors([&]() QTOOL_INLINE {
        QTOOL_INDEPENDENT
        for (std::int64_t r = 0; r < count; ++r) {
          q[r] = static_cast<float>(value[r]);
          delta[r] = value[r] - T(w[r]);
          const double e = static_cast<double>(value[r]) - static_cast<double>(now[r]);
          loss[r] += half * e * e;
        }
      });
      std::copy_n(delta, count, delta_.data() + p * m_ + first);
    }
  }

  /// Scales of the plane that begins at place p, from its weights as they would be if nothing more were rounded: X with
  /// X U_gg = -feedback is what they take up. `own`: Q - W of the places of this block before p.
  void fit(std::int64_t p, std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t count,
           const T* feedback, const T* own) {
    const std::int32_t plane = grid_.plane(column(p));
    std::int64_t last = p + 1;
    while (last < end && grid_.plane(column(last)) == plane) ++last;
    const std::int64_t width = last - p, before = p - begin;
    std::vector<T> taken(static_cast<std::size_t>(width * tile));
    std::vector<float> now(static_cast<std::size_t>(width * count));
    for (std::int64_t k = 0; k < width; ++k) {
      T* x = taken.data() + k * tile;
      const T* u = block_.data() + (before + k) * (end - begin);
      std::copy_n(feedback + (before + k) * m_, count, x);
      take_up(before, u, own, x);
      take_up(k, u + before, taken.data(), x);
      const float* w = w_.data() + column(p + k) * m_ + first;
      float* to = now.data() + k * count;
      with_widest_vectors([&]() QTOOL_INLINE {
        for (std::int64_t r = 0; r < tile; ++r) x[r] = -x[r];
        for (std::int64_t r = 0; r < count; ++r) to[r] = static_cast<float>(T(w[r]) + x[r]);
      });
    }
    std::vector<double> part;
    if (!options_.hessian.empty()) {
      part.resize(static_cast<std::size_t>(width * width));
      for (std::int64_t a = 0; a < width; ++a) {
        for (std::int64_t b = 0; b < width; ++b) {
          part[static_cast<std::size_t>(a * width + b)] =
              options_.hessian[static_cast<std::size_t>(column(p + a) * n_ + column(p + b))];
        }
      }
    }
    grid_.fit(plane, first, count, width, now.data(), count, part.empty() ? nullptr : part.data(), options_.clip);
  }

  Threads& threads_;
  std::span<const float> w_;
  Grid& grid_;
  const Conditioned& h_;
  const ColumnOptions& options_;
  std::int64_t m_, n_;
  const T* u_;
  BlockVector<T> delta_;  // Q - W, by place
  std::vector<T> block_;  // U of the block at hand, by column
  Solved out_;
};

}  // namespace

Solved quantize_columns(Threads& threads, std::span<const float> w, Grid& grid, const Conditioned& hessian,
                        const ColumnOptions& options) {
  QTOOL_ENSURE(hessian.factored, "the Hessian has a factor");
  if (hessian.u.dtype() == DType::f64) return Loop<double>(threads, w, grid, hessian, options).run();
  return Loop<float>(threads, w, grid, hessian, options).run();
}

}  // namespace qtool::solve

// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/refit.h"

#include <algorithm>
#include <cmath>

#include "calib/factor.h"
#include "calib/linalg.h"

namespace qtool::solve {
namespace {

/// Symmetric system of `n` unknowns, damped where it has no solution by itself; false: not even then.
bool solve_system(Threads& threads, std::int64_t n, std::vector<double> a, std::vector<double>& b) {
  std::vector<double> factor = a;
  if (!factor_reversed(threads, n, factor)) {
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i) mean += a[static_cast<std::size_t>(i * n + i)] / static_cast<double>(n);
    for (std::int64_t i = 0; i < n; ++i) a[static_cast<std::size_t>(i * n + i)] += 0.01 * mean;
    factor = std::move(a);
    if (!factor_reversed(threads, n, factor)) return false;
  }
  solve_reversed(threads, n, factor, 1, b);
  return std::all_of(b.begin(), b.end(), [](double x) { return std::isfinite(x); });
}

/// What a piece of rows says about its scales. With L the levels (codes less zero points) of one row, masked to a
/// plane, and I the indicators of planes: LHL, LHI (of each row), IHI, and w against both.
class Piece {
 public:
  Piece(const Problem& p, const Found& found, std::int64_t first, std::int64_t rows)
      : p_(p), found_(found), first_(first), rows_(rows), planes_(found.grid.planes()) {
    const auto size = static_cast<std::size_t>(planes_ * planes_ * rows);
    lhl_.resize(size);
    lhi_.resize(size);
    lhw_.resize(static_cast<std::size_t>(planes_ * rows));
    ihw_.resize(lhw_.size());
    ihi_.resize(static_cast<std::size_t>(planes_ * planes_));
    BlockVector<double> level(static_cast<std::size_t>(p.n * rows)), w(level.size()), t(level.size());
    for (std::int64_t c = 0; c < p.n; ++c) {
      const auto zero = found.grid.zero(found.grid.plane(c));
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto from = static_cast<std::size_t>(c * p.m + first + r), to = static_cast<std::size_t>(c * rows + r);
        level[to] = static_cast<double>(found.solved.codes[from]) - zero[static_cast<std::size_t>(first + r)];
        w[to] = p.w[from];
      }
    }
    gemm(p.threads, false, false, p.n, rows, p.n, 1.0, p.h.data(), p.n, w.data(), rows, 0.0, t.data(), rows);
    add(t, level, lhw_.data(), ihw_.data());
    for (std::int64_t g = 0; g < planes_; ++g) {
      const std::int64_t begin = p.planes.columns[static_cast<std::size_t>(g)];
      const std::int64_t end = g + 1 < planes_ ? p.planes.columns[static_cast<std::size_t>(g + 1)] : p.n;
      gemm(p.threads, false, false, p.n, rows, end - begin, 1.0, p.h.data() + begin, p.n, level.data() + begin * rows,
           rows, 0.0, t.data(), rows);
      add(t, level, &lhl_[static_cast<std::size_t>(g * planes_ * rows)],
          &lhi_[static_cast<std::size_t>(g * planes_ * rows)]);
      for (std::int64_t i = 0; i < p.n; ++i) {
        const double* row = p.h.data() + i * p.n;
        for (std::int64_t j = begin; j < end; ++j)
          ihi_[static_cast<std::size_t>(found.grid.plane(i) * planes_ + g)] += row[j];
      }
    }
  }

  /// Scales (and zero points) of row r of the piece into `grid`; false: none that are better by the equations.
  bool solve(std::int64_t r, bool zeros, Grid& grid) const {
    std::vector<double> scales(static_cast<std::size_t>(planes_));
    const std::vector<double> none(scales.size());
    const auto row = static_cast<std::size_t>(first_ + r);
    for (std::int64_t g = 0; g < planes_; ++g) scales[static_cast<std::size_t>(g)] = found_.grid.scale(g)[row];
    const double before = value(r, none, scales);
    double best = before;
    const auto consider = [&](const std::vector<double>& shift) {
      std::vector<double> s(scales);
      if (!best_scales(r, shift, s)) return;
      const double now = value(r, shift, s);
      if (!(now < best)) return;
      best = now;
      for (std::int64_t g = 0; g < planes_; ++g) {
        const auto k = static_cast<std::size_t>(g);
        grid.scale(g)[row] = p_.stored(static_cast<float>(s[k]));
        grid.zero(g)[row] = found_.grid.zero(g)[row] - static_cast<float>(shift[k]);
      }
    };
    consider(none);
    std::vector<double> shift;
    if (zeros && best_shift(r, scales, shift)) consider(shift);
    return best < before;
  }

 private:
  /// Sums of t and of level * t over the columns of each plane.
  void add(const BlockVector<double>& t, const BlockVector<double>& level, double* with_level, double* alone) const {
    for (std::int64_t c = 0; c < p_.n; ++c) {
      const std::int64_t g = found_.grid.plane(c);
      for (std::int64_t r = 0; r < rows_; ++r) {
        const auto at = static_cast<std::size_t>(c * rows_ + r);
        with_level[g * rows_ + r] += t[at] * level[at];
        alone[g * rows_ + r] += t[at];
      }
    }
  }
  double of(const std::vector<double>& v, std::int64_t g, std::int64_t k, std::int64_t r) const {
    return v[static_cast<std::size_t>((g * planes_ + k) * rows_ + r)];
  }
  double sum(const std::vector<double>& v, std::int64_t g, std::int64_t r) const {
    return v[static_cast<std::size_t>(g * rows_ + r)];
  }
  /// L H L and L H w for levels that are `shift` higher.
  double quadratic(std::int64_t g, std::int64_t k, std::int64_t r, const std::vector<double>& shift) const {
    const double a = shift[static_cast<std::size_t>(g)], b = shift[static_cast<std::size_t>(k)];
    return of(lhl_, g, k, r) + b * of(lhi_, g, k, r) + a * of(lhi_, k, g, r) +
           a * b * ihi_[static_cast<std::size_t>(g * planes_ + k)];
  }
  double linear(std::int64_t g, std::int64_t r, const std::vector<double>& shift) const {
    return sum(lhw_, g, r) + shift[static_cast<std::size_t>(g)] * sum(ihw_, g, r);
  }

  /// e H e^T less w H w^T.
  double value(std::int64_t r, const std::vector<double>& shift, const std::vector<double>& s) const {
    double out = 0;
    for (std::int64_t g = 0; g < planes_; ++g) {
      const double own = s[static_cast<std::size_t>(g)];
      double inner = -2 * linear(g, r, shift);
      for (std::int64_t k = 0; k < planes_; ++k) inner += s[static_cast<std::size_t>(k)] * quadratic(g, k, r, shift);
      out += own * inner;
    }
    return out;
  }

  /// Replaces the scales; false where they are not numbers above zero.
  bool best_scales(std::int64_t r, const std::vector<double>& shift, std::vector<double>& s) const {
    std::vector<double> a(static_cast<std::size_t>(planes_ * planes_)), b(s.size());
    for (std::int64_t g = 0; g < planes_; ++g) {
      b[static_cast<std::size_t>(g)] = linear(g, r, shift);
      for (std::int64_t k = 0; k < planes_; ++k)
        a[static_cast<std::size_t>(g * planes_ + k)] = quadratic(g, k, r, shift);
    }
    for (std::int64_t g = 0; g < planes_; ++g) {  // a plane of zeros alone: any scale will do
      const auto own = static_cast<std::size_t>(g * planes_ + g);
      if (a[own] > 0) continue;
      a[own] = 1;
      b[static_cast<std::size_t>(g)] = s[static_cast<std::size_t>(g)];
    }
    if (!solve_system(p_.threads, planes_, std::move(a), b)) return false;
    s = std::move(b);
    return std::all_of(s.begin(), s.end(), [&](double x) { return p_.stored(static_cast<float>(x)) > 0; });
  }

  /// How much higher levels should be, in whole steps, from scales and real offsets that are best together.
  bool best_shift(std::int64_t r, const std::vector<double>& scales, std::vector<double>& shift) const {
    const std::int64_t n = 2 * planes_;
    std::vector<double> a(static_cast<std::size_t>(n * n)), b(static_cast<std::size_t>(n));
    for (std::int64_t g = 0; g < planes_; ++g) {
      b[static_cast<std::size_t>(g)] = sum(lhw_, g, r);
      b[static_cast<std::size_t>(planes_ + g)] = sum(ihw_, g, r);
      for (std::int64_t k = 0; k < planes_; ++k) {
        a[static_cast<std::size_t>(g * n + k)] = of(lhl_, g, k, r);
        a[static_cast<std::size_t>(g * n + planes_ + k)] = of(lhi_, g, k, r);
        a[static_cast<std::size_t>((planes_ + k) * n + g)] = of(lhi_, g, k, r);
        a[static_cast<std::size_t>((planes_ + g) * n + planes_ + k)] = ihi_[static_cast<std::size_t>(g * planes_ + k)];
      }
    }
    if (!solve_system(p_.threads, n, std::move(a), b)) return false;
    bool any = false;
    const NumberFormat& format = *found_.grid.like().format;
    for (std::int64_t g = 0; g < planes_; ++g) {
      const auto k = static_cast<std::size_t>(g);
      const double zero = found_.grid.zero(g)[static_cast<std::size_t>(first_ + r)];
      const double s = b[k] > 0 ? b[k] : scales[k];
      const double moved = std::clamp(std::nearbyint(zero - b[static_cast<std::size_t>(planes_ + g)] / s),
                                      static_cast<double>(format.lowest), static_cast<double>(format.highest));
      shift.push_back(zero - moved);
      any = any || shift.back() != 0;
    }
    return any;
  }

  const Problem& p_;
  const Found& found_;
  std::int64_t first_, rows_, planes_;
  std::vector<double> lhl_, lhi_, lhw_, ihw_, ihi_;
};

}  // namespace

std::int64_t refit(const Problem& problem, Found& found) {
  if (!problem.free || !problem.blank.like().format->is_integer) return 0;
  const std::int64_t m = problem.m, planes = found.grid.planes();
  constexpr std::int64_t most = std::int64_t{1} << 22;  // doubles
  const std::int64_t piece = std::clamp<std::int64_t>(most / (planes * planes), 1, 256);
  Found other{found.grid, found.solved};
  for (std::int64_t first = 0; first < m; first += piece) {
    const std::int64_t rows = std::min(piece, m - first);
    const Piece part(problem, found, first, rows);
    const bool zeros = !found.grid.like().symmetric;
    problem.threads.for_each(rows, 8, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t r = from; r < to; ++r) part.solve(r, zeros, other.grid);
    });
  }
  for (std::int64_t c = 0; c < problem.n; ++c) {
    const auto scale = other.grid.scale(other.grid.plane(c)), zero = other.grid.zero(other.grid.plane(c));
    for (std::int64_t r = 0; r < m; ++r) {
      const auto at = static_cast<std::size_t>(c * m + r), row = static_cast<std::size_t>(r);
      other.solved.values[at] = (static_cast<float>(found.solved.codes[at]) - zero[row]) * scale[row];
    }
  }
  other.solved.loss = problem.errors(other.solved.values);
  found.solved.loss = problem.errors(found.solved.values);
  return take_better(other, found);
}

}  // namespace qtool::solve

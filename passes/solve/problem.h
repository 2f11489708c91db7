// SPDX-License-Identifier: Apache-2.0
// Problem: one matrix of a weight, with what solvers need to choose its codes: the weights by columns, the Hessian of
// its inputs, where scales fall, and a grid of what is decided so far. What comes of it goes back into the decision.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <utility>
#include <vector>

#include "formats/base/block_vector.h"
#include "formats/base/threads.h"
#include "passes/solve/columns.h"
#include "passes/solve/conditioned.h"
#include "passes/solve/grid.h"
#include "passes/solve/layer.h"
#include "passes/solve/walk.h"

namespace qtool::solve {

/// The factors of one Hessian that solvers ask for, each made once.
class Factors {
 public:
  /// `h` [n, n]: of `rows` rows. `damp`: see condition().
  Factors(Threads& threads, const Tensor& h, std::int64_t rows, double damp)
      : threads_(threads), h_(h), rows_(rows), damp_(damp) {}

  const Conditioned& of(Order order, std::int64_t group);
  /// The first one that was made; null: none.
  const Conditioned* any() const { return made_.empty() ? nullptr : &made_.front().second; }

 private:
  Threads& threads_;
  const Tensor& h_;
  std::int64_t rows_;
  double damp_;
  std::list<std::pair<std::pair<Order, std::int64_t>, Conditioned>> made_;
};

/// What a solver came to.
struct Found {
  Grid grid;
  Solved solved;
};

struct Problem {
  /// Matrix `i` of the weight, whose decision has places for scales (prepare()). `h` may be empty where no data are
  /// looked at. Keeps references to all of them.
  Problem(Threads&, const Weight&, std::int64_t i, const Tensor& hessian);

  Threads& threads;
  const Weight& weight;
  std::int64_t matrix, m, n;
  Layer::Planes planes;
  BlockVector<float> w;  // [n, m]: w[c * m + r]
  std::span<const double> h;
  bool free;           // scales may be chosen plane by plane: each row has its own, of one level, and none is there yet
  std::int64_t group;  // columns of a plane; 0: there is one plane
  Grid blank;          // the scales that are there

  /// Scales of all planes of a grid like `blank`. Requires: free.
  void fit(const Clip& clip, Grid& grid) const;
  /// Every weight as it is nearest; without loss.
  Solved nearest(const Grid& grid) const;
  /// Nearest codes to begin with, their loss told: on the grid that `found` has or, row by row and where `clipped`, on
  /// ranges with less error through the block of H.
  void start(bool clipped, Found& found) const;
  /// What an error of one scale in every weight of a row does to its outputs, about: mean s^2 times mean diag H.
  std::vector<float> units(const Grid& grid) const;
  /// f(c) for every column, on all threads.
  template <class F>
  void each_column(const F& f) const {
    threads.for_each(n, 16, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t c = from; c < to; ++c) f(static_cast<std::size_t>(c));
    });
  }
  /// e H e^T of each row, e = values - w, of `rows` of them: row k m / rows is the k-th (0: all). Without values: of
  /// the weights themselves.
  std::vector<double> errors(std::span<const float> values, std::int64_t rows = 0) const;
  /// The scale as it will be stored.
  float stored(float scale) const;
  /// The scales (where free) and, where `codes`, the codes, into the decision.
  void store(const Found& found, bool codes, QuantSpec& spec) const;
};

/// Gives the decision places for scales, in groups of `group` (0: as decided), where it has none.
void prepare(std::int64_t group, Weight& weight);
void regroup(std::int64_t group, QuantSpec& spec);

/// Rows of `from` with the smaller loss replace those of `to`. Returns how many.
std::int64_t take_better(const Found& from, Found& to);

}  // namespace qtool::solve

// SPDX-License-Identifier: Apache-2.0
// Scales by least squares (layerwise-optimizers.md sections 2 and 13).
#include "passes/solve/refit.h"

#include <cmath>

#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;
using namespace qtool::solve;

namespace {

/// A weight [n, m] of a MatMul under a decision.
Weight weight_of(const Tensor& w, const Quant& decision) {
  Graph g = graph_of("g (float[1] x) => (float[1] y) < float[1] w = {1.0} > { y = MatMul (x, w) }");
  Value& v = g[*g.find_value("w")];
  v.data = w;
  v.type.shape = w.shape();
  g[g.inputs[0]].type.shape = {4, w.shape()[0]};
  g[g.outputs[0].value].type.known_rank = false;
  Weight target{{{g.nodes()[0], 1}},
                Layer(g, *product_of(g, g.nodes()[0])),
                w,
                false,
                false,
                std::make_shared<QuantSpec>(*decision)};
  prepare(0, target);
  return target;
}

Tensor hessian(std::int64_t n) {
  Graph g = network();
  Tensor h(DType::f64, {n, n});
  const auto out = h.write<double>();
  for (const Feeds& feeds : correlated(g, 64, n, 4)) {
    const auto x = feeds.at(g.inputs[0]).read<float>();
    for (std::int64_t t = 0; t < 64; ++t) {
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          out[static_cast<std::size_t>(i * n + j)] += static_cast<double>(x[static_cast<std::size_t>(t * n + i)]) *
                                                      static_cast<double>(x[static_cast<std::size_t>(t * n + j)]);
        }
      }
    }
  }
  return h;
}

}  // namespace

TEST_CASE("refit: with one input, symmetric, the scale becomes w / q") {
  Threads threads(1);
  Tensor w(DType::f32, {1, 3}), h(DType::f64, {1, 1});
  const float values[] = {0.9F, -0.4F, 0.3F};
  std::copy_n(values, 3, w.write<float>().begin());
  h.write<double>()[0] = 2.5;
  const Weight target = weight_of(w, small_weights(number::int4, {Grain::Kind::axis, 1, 0, 0}, true));
  const Problem problem(threads, target, 0, h);
  REQUIRE(problem.free);
  Found found{problem.blank, {}};
  problem.fit({}, found.grid);
  for (float& s : found.grid.scale(0)) s *= 1.3F;
  found.solved = problem.nearest(found.grid);
  CHECK(refit(problem, found) == 3);
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(found.grid.scale(0)[r] == doctest::Approx(values[r] / found.solved.codes[r]).epsilon(1e-6));
    CHECK(found.solved.values[r] == doctest::Approx(values[r]).epsilon(1e-6));
  }
  // With a zero point to choose the equations have no single solution: nothing breaks, no row gets worse.
  const Weight other = weight_of(w, small_weights(number::uint4, {Grain::Kind::axis, 1, 0, 0}, false));
  const Problem singular(threads, other, 0, h);
  Found its{singular.blank, {}};
  singular.fit({}, its.grid);
  its.solved = singular.nearest(its.grid);
  const auto before = singular.errors(its.solved.values);
  refit(singular, its);
  for (std::size_t r = 0; r < 3; ++r) CHECK(singular.errors(its.solved.values)[r] <= before[r]);
}

TEST_CASE("refit: no row gets worse, errors end up orthogonal to the levels of every group, the same for all threads") {
  constexpr std::int64_t n = 70, m = 33;
  const Tensor h = hessian(n), w = normal({n, m}, "w", 0.2);
  const auto hv = h.read<double>();
  for (const bool symmetric : {true, false}) {
    for (const std::int64_t group : {0, 16}) {
      CAPTURE(symmetric);
      CAPTURE(group);
      const Grain grain = group == 0 ? Grain{Grain::Kind::axis, 1, 0, 0} : Grain{Grain::Kind::groups, 0, group, 0};
      const Weight target = weight_of(w, small_weights(symmetric ? number::int3 : number::uint3, grain, symmetric));
      BlockVector<float> first;
      for (const int count : {1, 3}) {
        Threads threads(count);
        const Problem problem(threads, target, 0, h);
        Found found{problem.blank, {}};
        problem.fit({}, found.grid);
        found.solved = problem.nearest(found.grid);
        const auto before = problem.errors(found.solved.values);
        const auto codes = found.solved.codes;
        const std::int64_t better = refit(problem, found);
        CHECK(better >= m - 4);  // where a scale would have to fall below zero, a row stays as it is
        CHECK(found.solved.codes == codes);
        const auto after = problem.errors(found.solved.values);
        double sum_before = 0, sum_after = 0;
        for (std::size_t r = 0; r < after.size(); ++r) {
          CHECK(after[r] <= before[r]);
          CHECK(found.solved.loss[r] == after[r]);
          sum_before += before[r];
          sum_after += after[r];
        }
        CHECK(sum_after < 0.95 * sum_before);
        for (std::int64_t r = 0; r < m; ++r) {
          if (after[static_cast<std::size_t>(r)] == before[static_cast<std::size_t>(r)]) continue;
          std::vector<double> dot(static_cast<std::size_t>(found.grid.planes())), size(dot);
          for (std::int64_t c = 0; c < n; ++c) {
            double he = 0;
            for (std::int64_t k = 0; k < n; ++k) {
              const auto at = static_cast<std::size_t>(k * m + r);
              he += hv[static_cast<std::size_t>(c * n + k)] *
                    (static_cast<double>(found.solved.values[at]) - static_cast<double>(problem.w[at]));
            }
            const auto p = found.grid.plane(c);
            const double level = found.solved.codes[static_cast<std::size_t>(c * m + r)] -
                                 found.grid.zero(p)[static_cast<std::size_t>(r)];
            dot[static_cast<std::size_t>(p)] += level * he;
            size[static_cast<std::size_t>(p)] += std::abs(level * he);
          }
          for (std::size_t p = 0; p < dot.size(); ++p) CHECK(std::abs(dot[p]) <= 1e-4 * size[p]);
        }
        if (first.empty()) first = found.solved.values;
        CHECK(found.solved.values == first);
      }
    }
  }
}

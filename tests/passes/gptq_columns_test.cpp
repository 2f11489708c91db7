// SPDX-License-Identifier: Apache-2.0
// Known answers and invariants of gptq.md section 7.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calib/cross.h"
#include "calib/factor.h"
#include "calib/hessian.h"
#include "formats/base/rng.h"
#include "passes/solve/columns.h"
#include "passes/solve/retarget.h"

using namespace qtool;
using namespace qtool::solve;

namespace {

struct Problem {
  std::int64_t m = 0, n = 0, t = 0;
  std::vector<double> x;  // [t, n]
  std::vector<double> w;  // [m, n]

  Tensor hessian() const {
    Tensor h(DType::f64, {n, n});
    const auto out = h.write<double>();
    for (std::int64_t r = 0; r < t; ++r) {
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) out[at(i, j)] += x[at(r, i)] * x[at(r, j)] * 2.0 / static_cast<double>(t);
      }
    }
    return h;
  }
  std::vector<float> columns() const {
    std::vector<float> out(w.size());
    for (std::int64_t r = 0; r < m; ++r) {
      for (std::int64_t c = 0; c < n; ++c) out[static_cast<std::size_t>(c * m + r)] = static_cast<float>(w[at(r, c)]);
    }
    return out;
  }
  std::size_t at(std::int64_t i, std::int64_t j) const { return static_cast<std::size_t>(i * n + j); }
};

QuantSpec decision(int bits, bool symmetric) {
  QuantSpec spec;
  spec.format = find_number((symmetric ? "int" : "uint") + std::to_string(bits));
  spec.symmetric = symmetric;
  spec.grain = {Grain::Kind::axis, 0, 0, 0};
  return spec;
}

Grid grid_for(const QuantSpec& spec, const Problem& p, std::int64_t group) {
  std::vector<std::int32_t> plane;
  for (std::int64_t c = 0; c < p.n; ++c) plane.push_back(static_cast<std::int32_t>(group > 0 ? c / group : 0));
  return Grid(spec, p.m, plane);
}

void fit_all(Grid& grid, const Problem& p, std::span<const float> w, std::int64_t group, const Clip& clip) {
  if (group <= 0) group = p.n;
  for (std::int64_t g = 0; g < grid.planes(); ++g) {
    grid.fit(g, 0, p.m, std::min(group, p.n - g * group), w.data() + g * group * p.m, p.m, nullptr, clip);
  }
}

/// 1/2 tr(E H E^T) with `damped` added to the diagonal.
double loss_of(const Problem& p, const Tensor& h, double damped, std::span<const float> q) {
  const auto v = h.read<double>();
  double sum = 0;
  for (std::int64_t r = 0; r < p.m; ++r) {
    for (std::int64_t i = 0; i < p.n; ++i) {
      for (std::int64_t j = 0; j < p.n; ++j) {
        const auto e = [&](std::int64_t c) {
          return static_cast<double>(q[static_cast<std::size_t>(c * p.m + r)]) - p.w[p.at(r, c)];
        };
        sum += 0.5 * e(i) * e(j) * (v[p.at(i, j)] + (i == j ? damped : 0.0));
      }
    }
  }
  return sum;
}

double total(std::span<const double> v) { return std::accumulate(v.begin(), v.end(), 0.0); }
double total(std::span<const float> v) { return std::accumulate(v.begin(), v.end(), 0.0); }

Problem known_a() {
  Problem p{2, 4, 6, {1, 2, 0, 1, 2, 1, 1, 0, 0, 1, 3, 1, 1, 0, 1, 2, 2, 2, 1, 1, -1, 1, 0, 2}, {}};
  p.w = {.9, -.4, .3, -.8, .25, .7, -.6, .1};
  return p;
}

struct Lcg {
  std::uint64_t s;
  double next() {
    s = 6364136223846793005ULL * s + 1442695040888963407ULL;
    return static_cast<double>(s >> 11) / 9007199254740992.0;
  }
};

Problem known_b() {
  Problem p{8, 32, 96, {}, {}};
  Lcg a{1}, b{2};
  for (std::int64_t i = 0; i < p.t * p.n; ++i) p.x.push_back((2 * a.next() - 1) * static_cast<double>(1 + i % p.n % 7));
  for (std::int64_t r = 0; r < p.t; ++r) {
    p.x[p.at(r, 5)] += 0.5 * p.x[p.at(r, 4)];
    p.x[p.at(r, 20)] -= 0.7 * p.x[p.at(r, 3)];
    p.x[p.at(r, 9)] = 0;
  }
  for (std::int64_t i = 0; i < p.m * p.n; ++i) p.w.push_back((2 * b.next() - 1) * 0.1);
  return p;
}

std::vector<float> without_dead(const Problem& p) {
  std::vector<float> w = p.columns();
  std::fill_n(w.begin() + 9 * p.m, p.m, 0.0F);
  return w;
}

Problem random_problem(std::uint64_t seed, std::int64_t m, std::int64_t n, std::int64_t t) {
  Problem p{m, n, t, {}, {}};
  const Rng rng(seed, "problem");
  std::uint64_t i = 0;
  std::vector<double> mixing;
  for (std::int64_t k = 0; k < n * 4; ++k) mixing.push_back(rng.normal(i++));
  for (std::int64_t r = 0; r < t; ++r) {
    double latent[4];
    for (double& l : latent) l = rng.normal(i++);
    for (std::int64_t c = 0; c < n; ++c) {
      double x = 0.5 * rng.normal(i++);
      for (std::int64_t k = 0; k < 4; ++k) x += latent[k] * mixing[static_cast<std::size_t>(c * 4 + k)];
      p.x.push_back(x);
    }
  }
  for (std::int64_t k = 0; k < m * n; ++k) p.w.push_back(static_cast<double>(static_cast<float>(rng.normal(i++))));
  return p;
}

}  // namespace

TEST_CASE("gptq.md known answer A: codes, scales and losses of the small problem") {
  Threads threads(1);
  const Problem p = known_a();
  const Tensor h = p.hessian();
  const auto w = p.columns();
  Grid grid = grid_for(decision(2, false), p, 0);
  fit_all(grid, p, w, 0, {});
  CHECK(grid.scale(0)[0] == doctest::Approx(0.5666667).epsilon(1e-7));
  CHECK(grid.scale(0)[1] == doctest::Approx(0.4333333).epsilon(1e-7));
  CHECK(grid.zero(0)[0] == 1);
  CHECK(grid.zero(0)[1] == 1);
  const Conditioned c = condition(threads, h, p.t, 0.01, Order::none, 0);
  REQUIRE(c.factored);
  // diag(R) = D^-1/2
  const double root[] = {0.7037838898, 0.6985796288, 0.5814705353, 0.5195827694};
  for (std::size_t i = 0; i < 4; ++i) CHECK(1 / std::sqrt(c.d[i]) == doctest::Approx(root[i]).epsilon(1e-9));
  const Solved s = quantize_columns(threads, w, grid, c, {});
  const BlockVector<std::int16_t> codes{3, 2, 0, 2, 1, 0, 0, 1};  // by column
  CHECK(s.codes == codes);
  CHECK(total(s.loss) == doctest::Approx(0.278171875).epsilon(1e-6));
  CHECK(loss_of(p, h, 0, s.values) == doctest::Approx(0.27125).epsilon(1e-6));
  CHECK(s.loss[0] == doctest::Approx(loss_of({1, 4, 6, p.x, {.9, -.4, .3, -.8}}, h, 0.0375,
                                             std::vector<float>{s.values[0], s.values[2], s.values[4], s.values[6]}))
                         .epsilon(1e-6));
}

TEST_CASE("gptq.md known answer B: sums and losses of every variant") {
  Threads threads(1);
  const Problem p = known_b();
  CHECK(p.x[0] == doctest::Approx(-0.153581658255));
  CHECK(p.w[0] == doctest::Approx(0.053641937373));
  const Tensor h = p.hessian();
  CHECK(h.read<double>()[4 * 32 + 5] == doctest::Approx(9.474799883062888).epsilon(1e-12));
  const std::vector<float> all = p.columns(), w = without_dead(p);
  struct Row {
    const char* name;
    int bits;
    bool symmetric;
    std::int64_t group, block;
    Order order;
    bool on_the_way;
    Clip::Kind clip;
    double sum, undamped, damped;
  };
  const Row rows[] = {
      {"row", 3, false, 0, 16, Order::none, false, Clip::Kind::minmax, 0.5806281257, 0.0917856597, 0.093450047741},
      {"row, block 5", 3, false, 0, 5, Order::none, false, Clip::Kind::minmax, 0.5806281257, 0.0917856597,
       0.093450047741},
      {"row, clip 2.4", 3, false, 0, 16, Order::none, false, Clip::Kind::mse, 0.5111746113, 0.0977746868,
       0.099323373766},
      {"g8 dynamic", 3, false, 8, 16, Order::none, true, Clip::Kind::minmax, 0.6718838630, 0.0587299452,
       0.059653732394},
      {"g8 dynamic, block 12", 3, false, 8, 12, Order::none, true, Clip::Kind::minmax, 0.6718838630, 0.0587299452,
       0.059653732394},
      {"g8 static", 3, false, 8, 16, Order::none, false, Clip::Kind::minmax, 0.6089339920, 0.0599360752,
       0.060880698798},
      {"g8 static act", 3, false, 8, 16, Order::act, false, Clip::Kind::minmax, 0.5894884384, 0.0485064135,
       0.049597693302},
      {"g8 GAR", 3, false, 8, 16, Order::gar, true, Clip::Kind::minmax, 0.8363435919, 0.0510611732, 0.052108053362},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Grid grid = grid_for(decision(row.bits, row.symmetric), p, row.group);
    if (!row.on_the_way) fit_all(grid, p, w, row.group, {row.clip, 80, 0.2F, 2.4F});
    const Conditioned c = condition(threads, h, p.t, 0.01, row.order, row.group);
    REQUIRE(c.factored);
    CHECK(c.dead == 1);
    if (row.order == Order::act) {
      CHECK(std::vector<std::int32_t>(c.order.begin(), c.order.begin() + 6) ==
            std::vector<std::int32_t>{27, 6, 20, 5, 13, 26});
    }
    const Solved s = quantize_columns(threads, w, grid, c, {row.block, row.on_the_way, {}, {}});
    CHECK(total(s.values) == doctest::Approx(row.sum).epsilon(2e-6));
    CHECK(loss_of(p, h, 0, s.values) == doctest::Approx(row.undamped).epsilon(2e-6));
    CHECK(total(s.loss) == doctest::Approx(row.damped).epsilon(2e-6));
  }
  struct Rounded {
    std::int64_t group;
    Clip clip;
    double sum, undamped;
  };
  const Rounded rounded[] = {{0, {}, 0.5501356036, 0.1074323359},
                             {8, {}, 0.7858265882, 0.0672148646},
                             {0, {Clip::Kind::mse, 80, 0.2F, 2.4F}, 0.5654661280, 0.1014367426}};
  for (const auto& [group, clip, sum, undamped] : rounded) {
    Grid grid = grid_for(decision(3, false), p, group);
    fit_all(grid, p, all, group, clip);
    std::vector<float> q(all.size());
    std::vector<std::int16_t> codes(all.size());
    for (std::int64_t c = 0; c < p.n; ++c) {
      grid.nearest(c, 0, p.m, all.data() + c * p.m, codes.data() + c * p.m, q.data() + c * p.m);
    }
    CHECK(total(q) == doctest::Approx(sum).epsilon(2e-6));
    CHECK(loss_of(p, h, 0, q) == doctest::Approx(undamped).epsilon(2e-6));
  }
}

TEST_CASE("gptq.md invariants: loss identity, blocks, threads, precision, identity Hessian, one column") {
  Threads one(1), three(3);
  const Problem p = random_problem(7, 70, 150, 400);
  const Tensor h = p.hessian();
  const auto w = p.columns();
  for (const Order order : {Order::none, Order::act, Order::gar}) {
    for (const bool on_the_way : {false, true}) {
      if (order == Order::act && on_the_way) continue;
      const Conditioned c = condition(one, h, p.t, 0, order, 32);
      CHECK(c.lambda == doctest::Approx(0.15 * 150 / 400));
      Solved first;
      for (const std::int64_t block : {128, 16, 33}) {
        for (Threads* threads : {&one, &three}) {
          Grid grid = grid_for(decision(3, false), p, 32);
          if (!on_the_way) fit_all(grid, p, w, 32, {});
          Solved s = quantize_columns(*threads, w, grid, c, {block, on_the_way, {}, {}});
          if (first.codes.empty()) first = s;
          CHECK(s.codes == first.codes);
        }
      }
      double sum = 0;
      for (const double d : c.diagonal) sum += d;
      const double exact = loss_of(p, h, c.lambda * sum / 150, first.values);
      CHECK(total(first.loss) == doctest::Approx(exact).epsilon(1e-6));
    }
  }
  Tensor identity(DType::f64, {p.n, p.n});
  for (std::int64_t i = 0; i < p.n; ++i) identity.write<double>()[p.at(i, i)] = 1.0 + static_cast<double>(i);
  Grid grid = grid_for(decision(4, true), p, 0);
  fit_all(grid, p, w, 0, {});
  const Solved s =
      quantize_columns(one, w, grid, condition(one, identity, 100, 0.01, Order::act, 0), {128, false, {}, {}});
  std::vector<float> q(static_cast<std::size_t>(p.m));
  std::vector<std::int16_t> codes(q.size());
  for (std::int64_t c = 0; c < p.n; ++c) {
    grid.nearest(c, 0, p.m, w.data() + c * p.m, codes.data(), q.data());
    CHECK(std::equal(codes.begin(), codes.end(), s.codes.begin() + c * p.m));
  }
}

TEST_CASE("the reversed factor gives the matrix back, and refuses what is not positive") {
  Threads one(1), three(3);
  for (const std::int64_t n : {1, 5, 127, 128, 129, 300, 513}) {
    CAPTURE(n);
    const Problem p = random_problem(static_cast<std::uint64_t>(n), 1, n, 2 * n + 3);
    Tensor h = p.hessian();
    const auto before = h;
    for (std::int64_t i = 0; i < n; ++i) h.write<double>()[p.at(i, i)] += 0.1;
    Tensor a = h, b = h;
    REQUIRE(factor_reversed(one, n, a.write<double>()));
    REQUIRE(factor_reversed(three, n, b.write<double>()));
    double worst = 0;
    const auto c = a.read<double>();
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i; j < n; ++j) {
        CHECK(c[p.at(i, j)] == b.read<double>()[p.at(i, j)]);
        double sum = 0;
        for (std::int64_t k = j; k < n; ++k) sum += c[p.at(i, k)] * c[p.at(j, k)];
        worst = std::max(worst, std::abs(sum - h.read<double>()[p.at(i, j)]));
      }
    }
    CHECK(worst < 1e-10 * static_cast<double>(n));
    std::vector<double> x(static_cast<std::size_t>(2 * n));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<double>(i));
    std::vector<double> y(x.size());
    for (std::int64_t r = 0; r < 2; ++r) {
      for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t k = 0; k < n; ++k) y[p.at(r, j)] += x[p.at(r, k)] * h.read<double>()[p.at(k, j)];
      }
    }
    solve_reversed(one, n, c, 2, y);
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == doctest::Approx(x[i]).epsilon(1e-7));
  }
  std::vector<double> bad{1, 2, 2, 1};
  CHECK_FALSE(factor_reversed(one, 2, bad));
  bad = {1, 0, 0, std::nan("")};
  CHECK_FALSE(factor_reversed(one, 2, bad));
}

TEST_CASE("a Hessian is that of its rows, however they come") {
  Threads one(1), three(3);
  const std::int64_t n = 700, t = 9000;
  std::vector<float> rows(static_cast<std::size_t>(n * t));
  const Rng rng(3, "rows");
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(rng.uniform(i)) - 0.3F;
  rows[static_cast<std::size_t>(17 * n + 3)] = std::numeric_limits<float>::infinity();
  rows[static_cast<std::size_t>(4000 * n)] = std::numeric_limits<float>::quiet_NaN();
  Hessian whole(n), parts(n);
  whole.add(rows, one);
  const std::int64_t cuts[] = {0, 1, 16, 4000, 4001, 8999, t};
  for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
    parts.add({rows.data() + cuts[i] * n, static_cast<std::size_t>((cuts[i + 1] - cuts[i]) * n)}, three);
    ByteWriter out;
    parts.write(out);
    Hessian again(n);
    ByteReader in(out.written());
    again.read(in);
    parts = again;
  }
  CHECK(whole.rows() == t - 2);
  CHECK(whole.left_out() == 2);
  const Tensor a = whole.matrix(one), b = parts.matrix(three);
  CHECK(a.same_bytes(b));
  const auto h = a.read<double>();
  for (const auto& [i, j] : {std::pair<std::int64_t, std::int64_t>{0, 0}, {3, 699}, {699, 3}, {520, 511}, {600, 600}}) {
    double sum = 0;
    for (std::int64_t r = 0; r < t; ++r) {
      if (r == 17 || r == 4000) continue;
      sum += static_cast<double>(rows[static_cast<std::size_t>(r * n + i)]) *
             static_cast<double>(rows[static_cast<std::size_t>(r * n + j)]);
    }
    CHECK(h[static_cast<std::size_t>(i * n + j)] == doctest::Approx(2 * sum / (t - 2)).epsilon(1e-6));
  }
}

TEST_CASE("gptq.md known answer C: weights that make up for inputs that are off") {
  Threads threads(1);
  const float floats[] = {1, 0, 0, 1, 1, 1, 2, -1}, off[] = {0.9F, 0.1F, 0, 1.2F, 1.1F, 0.8F, 1.8F, -1};
  Hessian h(2);
  h.add(off, threads);
  CrossSum c(2);
  c.add(floats, off, threads);
  const Tensor hm = h.matrix(threads), cm = c.matrix(threads);
  const double want_h[] = {2.63, -.415, -.415, 1.545}, want_c[] = {.17, -.135, .065, -.045};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(hm.read<double>()[i] == doctest::Approx(want_h[i]).epsilon(1e-6));
    CHECK(cm.read<double>()[i] == doctest::Approx(want_c[i]).epsilon(1e-5));
  }
  const std::vector<float> w{1, -2};
  const auto target = retarget(threads, w, hm, cm, 0, 1);
  REQUIRE(target.size() == 2);
  CHECK(target[0] == doctest::Approx(1.011082913).epsilon(1e-6));
  CHECK(target[1] == doctest::Approx(-2.0261492499).epsilon(1e-6));
  const auto distance = [&](double a, double b) {
    double sum = 0;
    for (std::size_t r = 0; r < 4; ++r) {
      const double e = floats[2 * r] - 2.0 * floats[2 * r + 1] - (a * off[2 * r] + b * off[2 * r + 1]);
      sum += e * e;
    }
    return sum;
  };
  CHECK(distance(1, -2) == doctest::Approx(0.54).epsilon(1e-6));
  CHECK(distance(target[0], target[1]) == doctest::Approx(0.5367599345).epsilon(1e-6));
  CHECK(distance(.9, -1.7) == doctest::Approx(0.9905).epsilon(1e-6));
  CHECK(std::ranges::equal(retarget(threads, w, hm, cm, 0, 0), w));
}

// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/conditioned.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calib/factor.h"
#include "formats/base/error.h"

namespace qtool::solve {
namespace {

/// Up to here solvers compute in double; wider, their sums in float32 lose less than the rounding of one weight in
/// 10^5.
constexpr std::int64_t widest_double = 1024;

/// The share asked for, or by the rows per column (gptq.md section 4).
double share_of(double damp, std::int64_t n, std::int64_t rows) {
  return damp != 0 ? damp : std::clamp(0.15 * static_cast<double>(n) / static_cast<double>(rows), 0.01, 0.5);
}

void copy_ordered(Threads& threads, std::int64_t n, std::span<const double> h, const std::vector<std::int32_t>& order,
                  const std::vector<double>& diagonal, double added, std::span<double> out) {
  threads.for_each(n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = order[static_cast<std::size_t>(i)];
      const double* from = h.data() + row * n;
      double* to = out.data() + i * n;
      for (std::int64_t j = i; j < n; ++j) to[j] = from[order[static_cast<std::size_t>(j)]];
      to[i] = diagonal[static_cast<std::size_t>(row)] + added;
    }
  });
}

}  // namespace

std::vector<std::int32_t> order_of(const std::vector<double>& diagonal, Order order, std::int64_t group) {
  const auto n = static_cast<std::int64_t>(diagonal.size());
  std::vector<std::int32_t> places(diagonal.size());
  std::iota(places.begin(), places.end(), 0);
  const auto falling = [&](std::int32_t a, std::int32_t b) {
    return diagonal[static_cast<std::size_t>(a)] > diagonal[static_cast<std::size_t>(b)];
  };
  if (order == Order::act) std::stable_sort(places.begin(), places.end(), falling);
  if (order != Order::gar || group <= 0) return places;
  const std::int64_t whole = n / group;
  std::vector<std::int32_t> groups(static_cast<std::size_t>(whole));
  std::iota(groups.begin(), groups.end(), 0);
  for (std::int64_t g = 0; g < whole; ++g) {
    std::stable_sort(places.begin() + g * group, places.begin() + (g + 1) * group, falling);
  }
  const auto first = [&](std::int32_t g) { return places[static_cast<std::size_t>(g * group)]; };
  std::stable_sort(groups.begin(), groups.end(),
                   [&](std::int32_t a, std::int32_t b) { return falling(first(a), first(b)); });
  std::vector<std::int32_t> out;
  for (const std::int32_t g : groups) {
    out.insert(out.end(), places.begin() + g * group, places.begin() + (g + 1) * group);
  }
  out.insert(out.end(), places.begin() + whole * group, places.end());  // what fills no group keeps its place
  return out;
}

double damping(const Tensor& h, std::int64_t rows, double damp) {
  const std::int64_t n = h.shape().at(0);
  const auto values = h.read<double>();
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double d = values[static_cast<std::size_t>(i * n + i)];
    sum += d == 0 ? 1.0 : d;
  }
  return share_of(damp, n, rows) * sum / static_cast<double>(n);
}

Conditioned condition(Threads& threads, const Tensor& h, std::int64_t rows, double damp, Order order,
                      std::int64_t group) {
  Conditioned c;
  c.n = h.shape().at(0);
  const std::int64_t n = c.n;
  QTOOL_ENSURE(h.shape() == (Shape{n, n}) && rows > 0, "a Hessian is square and was collected");
  const auto values = h.read<double>();
  double sum = 0, largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    double d = values[static_cast<std::size_t>(i * n + i)];
    if (d == 0) {
      ++c.dead;
      d = 1;
    }
    c.diagonal.push_back(d);
    sum += d;
    largest = std::max(largest, d);
  }
  const double mean = sum / static_cast<double>(n);
  damp = share_of(damp, n, rows);
  c.order = order_of(c.diagonal, order, group);
  Tensor factor = Tensor::unset(DType::f64, {n, n});
  constexpr double step = 0.01, most = 1.0;
  for (int floor = -1; floor <= 5 && !c.factored; ++floor) {
    const double least = floor < 0 ? 0 : 1e-6 * largest * std::pow(10.0, floor);
    for (c.lambda = damp;; c.lambda = std::min(c.lambda + step, most)) {
      copy_ordered(threads, n, values, c.order, c.diagonal, c.lambda * mean + least, factor.write<double>());
      c.factored = factor_reversed(threads, n, factor.write<double>());
      if (c.factored || c.lambda >= most) break;
      ++c.retries;
    }
  }
  if (!c.factored) return c;
  const auto u = factor.write<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    const double root = u[static_cast<std::size_t>(i * n + i)];
    c.d.push_back(root * root);
  }
  const bool wide = n > widest_double;
  if (wide) c.u = Tensor::unset(DType::f32, {n, n});
  const auto narrow = wide ? c.u.write<float>() : std::span<float>{};
  std::vector<double> roots;
  for (const double d : c.d) roots.push_back(1 / std::sqrt(d));
  threads.for_each(n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = i; j < n; ++j) {
        const auto at = static_cast<std::size_t>(i * n + j);
        const double x = i == j ? 1.0 : u[at] * roots[static_cast<std::size_t>(j)];
        if (wide) {
          narrow[at] = static_cast<float>(x);
        } else {
          u[at] = x;
        }
      }
    }
  });
  if (!wide) c.u = factor;
  return c;
}

}  // namespace qtool::solve

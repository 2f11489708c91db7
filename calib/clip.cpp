// SPDX-License-Identifier: Apache-2.0
#include "calib/clip.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "formats/base/error.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

using Bins = std::vector<Histogram::Bin>;

Limits seen(const Histogram& h) { return {std::min(h.low(), 0.0f), std::max(h.high(), 0.0f)}; }

/// `limits` as a symmetric format takes them.
Limits balanced(Limits limits) {
  const float t = std::max(-limits.first, limits.second);
  return {-t, t};
}

QuantSpec spec_for(const NumberFormat& format, bool symmetric, Limits range) {
  QuantSpec spec;
  spec.format = &format;
  spec.symmetric = symmetric;
  const float low[] = {range.first}, high[] = {range.second};
  set_scales(spec, {low, 1}, {high, 1}, {});
  return spec;
}

}  // namespace

Limits clip_percentile(const Histogram& h, double percent, bool symmetric) {
  const Limits all = seen(h);
  if (percent >= 100 || h.count() == 0) return all;
  const Bins bins = h.list();
  if (symmetric) {
    const Bins magnitudes = Histogram::absolute(bins);
    const auto t = static_cast<float>(Histogram::quantile(magnitudes, percent / 100));
    return {std::max(all.first, -t), std::min(all.second, t)};
  }
  const double tail = (100 - percent) / 200;
  const auto low = static_cast<float>(Histogram::quantile(bins, tail));
  const auto high = static_cast<float>(Histogram::quantile(bins, 1 - tail));
  return {std::clamp(low, all.first, 0.0f), std::clamp(high, 0.0f, all.second)};
}

namespace {

/// Bins of one width over [-reach, reach]; mass of a histogram bin goes to where its middle lies, in parts when it is
/// wider than one of these.
struct Even {
  static constexpr int side = 2048;
  double width = 0;
  std::vector<double> mass = std::vector<double>(2 * side);

  Even(const Bins& bins, double reach) : width(reach / side) {
    for (const Histogram::Bin& b : bins) {
      if (b.low == 0 && b.high == 0) continue;
      const double from = static_cast<double>(b.low) / width + side, to = static_cast<double>(b.high) / width + side;
      const auto first = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::floor(from)), 0, 2 * side - 1);
      const auto last = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(to)) - 1, first, 2 * side - 1);
      const double part = static_cast<double>(b.count) / static_cast<double>(last - first + 1);
      for (std::int64_t i = first; i <= last; ++i) mass[static_cast<std::size_t>(i)] += part;
    }
  }
  float middle(int i) const { return static_cast<float>((i - side + 0.5) * width); }
};

/// KL(P || Q) for bins [first, last): P with the clipped mass at its edges, Q from the mass inside, spread evenly over
/// the bins that share a code.
double divergence(const Even& even, int first, int last, const NumberFormat& format, bool symmetric) {
  const auto n = static_cast<std::size_t>(last - first);
  std::vector<double> p(even.mass.begin() + first, even.mass.begin() + last), q(n, 0.0);
  const std::vector<double> inside = p;
  for (int i = 0; i < first; ++i) p.front() += even.mass[static_cast<std::size_t>(i)];
  for (int i = last; i < 2 * Even::side; ++i) p.back() += even.mass[static_cast<std::size_t>(i)];
  Tensor middles(DType::f32, {last - first});
  for (int i = first; i < last; ++i) middles.write<float>()[static_cast<std::size_t>(i - first)] = even.middle(i);
  const Limits range{even.middle(first) - static_cast<float>(even.width) / 2,
                     even.middle(last - 1) + static_cast<float>(even.width) / 2};
  const Tensor rounded = fake_quantize(middles, spec_for(format, symmetric, symmetric ? balanced(range) : range));
  const auto code = rounded.read<float>();  // one value per code
  for (std::size_t from = 0; from < n;) {
    std::size_t to = from, filled = 0;
    double sum = 0;
    for (; to < n && code[to] == code[from]; ++to) {
      sum += inside[to];
      filled += inside[to] > 0 ? 1 : 0;
    }
    for (std::size_t i = from; i < to; ++i) {
      if (inside[i] > 0) q[i] = sum / static_cast<double>(filled);
    }
    from = to;
  }
  double all_p = 0, all_q = 0;
  for (std::size_t i = 0; i < n; ++i) {
    all_p += p[i];
    all_q += q[i];
  }
  if (all_p == 0 || all_q == 0) return std::numeric_limits<double>::infinity();
  constexpr double least = 1e-4;  // counts for a bin that only clipping fills
  double kl = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (p[i] > 0) kl += p[i] / all_p * std::log(p[i] / all_p * (all_q / std::max(q[i], least)));
  }
  return kl;
}

}  // namespace

Limits clip_entropy(const Histogram& h, const NumberFormat& format, bool symmetric) {
  const Limits all = seen(h);
  const double reach_of_all = std::max(-static_cast<double>(all.first), static_cast<double>(all.second));
  if (reach_of_all == 0) return all;
  const Bins bins = h.list();
  Bins magnitudes = Histogram::absolute(bins);
  std::erase_if(magnitudes, [](const Histogram::Bin& b) { return b.high == 0; });
  const double reach = std::min(reach_of_all, 16 * Histogram::quantile(magnitudes, 0.999));
  const Even even(bins, reach);
  // Bins within the range seen.
  const auto at = [&](double x) {
    return std::clamp(static_cast<int>(std::floor(x / even.width)) + Even::side, 0, 2 * Even::side - 1);
  };
  const int lowest = all.first < 0 ? at(all.first) : Even::side,
            highest = all.second > 0 ? at(all.second) + 1 : Even::side;
  constexpr int steps = 128, fewest = 8;  // thresholds at 8/128 .. 128/128 of the reach, as in the original
  double best = std::numeric_limits<double>::infinity();
  Limits choice = all;
  for (int step = fewest; step <= steps; ++step) {
    const int half = Even::side * step / steps;
    const int first = std::max(lowest, Even::side - half), last = std::min(highest, Even::side + half);
    const double kl = divergence(even, first, last, format, symmetric);
    if (kl <= best) {  // ties: the wider one
      best = kl;
      const auto t = static_cast<float>(half * even.width);
      const bool whole = step == steps && reach == reach_of_all;
      choice = whole ? all : Limits{std::max(all.first, -t), std::min(all.second, t)};
    }
  }
  return choice;
}

namespace {

/// Sum of |error|^power of the histogram under one range.
class ErrorSum {
 public:
  ErrorSum(const Histogram& h, const NumberFormat& format, bool symmetric, int power)
      : format_(format), symmetric_(symmetric), power_(power) {
    const Bins bins = h.list(256);
    middles_ = Tensor(DType::f32, {static_cast<std::int64_t>(bins.size())});
    const auto out = middles_.write<float>();
    for (std::size_t i = 0; i < bins.size(); ++i) {
      out[i] = bins[i].middle();
      counts_.push_back(static_cast<double>(bins[i].count));
    }
  }
  double operator()(Limits range) const {
    const Tensor y = fake_quantize(middles_, spec_for(format_, symmetric_, range));
    const auto a = middles_.read<float>(), b = y.read<float>();
    double sum = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += counts_[i] * (power_ == 1 ? std::fabs(d) : d * d);
    }
    return sum;
  }

 private:
  const NumberFormat& format_;
  bool symmetric_;
  int power_;
  Tensor middles_;
  std::vector<double> counts_;
};

/// The ratio in (2^-10, 1] with the least cost: a coarse geometric grid, then a fine one around its best.
template <class F>
float best_ratio(F cost) {
  const auto search = [&](double first, double last, int steps, double start, double known) {
    double ratio = start, least = known;
    for (int i = 0; i <= steps; ++i) {
      const double r = std::min(1.0, std::exp2(first + (last - first) * i / steps));
      const double c = cost(static_cast<float>(r));
      if (c < least) {
        least = c;
        ratio = r;
      }
    }
    return std::pair(ratio, least);
  };
  const auto coarse = search(0, -10, 80, 1, std::numeric_limits<double>::infinity());
  const double middle = std::log2(coarse.first);
  return static_cast<float>(search(middle + 0.125, middle - 0.125, 16, coarse.first, coarse.second).first);
}

}  // namespace

Limits clip_least_error(const Histogram& h, const NumberFormat& format, bool symmetric, int power) {
  Limits range = seen(h);
  if (range.first == 0 && range.second == 0) return range;
  const ErrorSum cost(h, format, symmetric, power);
  if (symmetric || !format.is_integer) {
    const Limits all = range;
    const float t = std::max(-all.first, all.second);
    const float clipped = t * best_ratio([&](float r) {
                            return cost({std::max(all.first, -t * r), std::min(all.second, t * r)});
                          });
    return {std::max(all.first, -clipped), std::min(all.second, clipped)};
  }
  const Limits all = range;
  for (int round = 0; round < 2; ++round) {
    range.second = all.second * best_ratio([&](float r) { return cost({range.first, all.second * r}); });
    range.first = all.first * best_ratio([&](float r) { return cost({all.first * r, range.second}); });
  }
  return range;
}

}  // namespace qtool

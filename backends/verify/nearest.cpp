// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/nearest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "formats/base/widest.h"

namespace qtool::verify {
namespace {

constexpr std::int64_t tile = 128;  // rows of codes side by side: transposed numbers lie in lines of them
constexpr std::int64_t part = std::int64_t{1} << 16;  // elements that one thread takes at a time
/// No search for the best range leaves less of it than this (round_nearest: 0.52).
constexpr double least_share = 0.51;

struct Row {
  std::vector<std::int32_t> code;
  std::vector<float> scale, zero, x;
};

/// Rows of codes with the numbers that belong to them.
class Rows {
 public:
  /// `some`: few of the rows will be visited.
  Rows(const Coded& coded, const Numbers& numbers, bool transposed, bool some, Pages& pages)
      : coded_(coded), numbers_(numbers), transposed_(transposed), some_(some), pages_(pages) {}

  /// f(row number, row) for rows [begin, end).
  template <class F>
  void visit(std::int64_t begin, std::int64_t end, const F& f) const {
    const auto width = static_cast<std::size_t>(coded_.width);
    Row row{std::vector<std::int32_t>(width), std::vector<float>(width), std::vector<float>(width),
            std::vector<float>(width)};
    std::vector<float> lines;
    for (std::int64_t r = begin; r < end; ++r) {
      coded_.codes(r, row.code);
      coded_.scales(r, row.scale, row.zero);
      if (!transposed_) {
        numbers_.read(r * coded_.width, row.x);
      } else {
        const std::int64_t first = (r - begin) / tile * tile + begin;
        if (r == first) fetch(first, std::min(tile, end - first), lines);
        std::copy_n(lines.begin() + (r - first) * coded_.width, width, row.x.begin());
      }
      f(r, row);
    }
  }

 private:
  /// Columns [first, first + n) of the numbers as `n` rows.
  void fetch(std::int64_t first, std::int64_t n, std::vector<float>& lines) const {
    const std::int64_t width = coded_.width;
    const auto size = static_cast<std::size_t>(n);
    lines.resize(static_cast<std::size_t>(width * n));
    const std::byte* memory = numbers_.floats();
    constexpr std::int64_t side = 16;
    std::array<std::array<float, static_cast<std::size_t>(tile)>, static_cast<std::size_t>(side)> square;
    for (std::int64_t from = 0; from < width; from += side) {
      const std::int64_t m = std::min(side, width - from);
      for (std::int64_t i = 0; i < m; ++i) {
        const std::int64_t at = (from + i) * coded_.rows + first;
        float* to = square[static_cast<std::size_t>(i)].data();
        if (memory != nullptr) {
          std::memcpy(to, memory + at * 4, size * 4);
        } else {
          numbers_.read(at, {to, size});
        }
      }
      for (std::int64_t r = 0; r < n; ++r) {
        float* to = lines.data() + r * width + from;
        for (std::int64_t i = 0; i < m; ++i) to[i] = square[static_cast<std::size_t>(i)][static_cast<std::size_t>(r)];
      }
      if (some_) pages_.after(m * coded_.rows);  // whole lines were fetched for a few of their numbers
    }
  }

  const Coded& coded_;
  const Numbers& numbers_;
  const bool transposed_, some_;
  Pages& pages_;
};

struct Limits {
  float tolerance, low, high;  // codes
};

/// Whether element i is the nearest code of its number.
inline bool is_near(const Row& row, std::size_t i, const Limits& l) {
  float t = row.x[i] / row.scale[i] + row.zero[i];
  t = t < l.low ? l.low : t;
  t = t > l.high ? l.high : t;
  // Rounding of the quotient counts for the code without its zero point, and for the sum.
  const float slack = 0.5F + l.tolerance * (std::fabs(t - row.zero[i]) + std::fabs(t) + 1.0F);
  return std::fabs(t - static_cast<float>(row.code[i])) <= slack;
}

/// Whether all codes of a row are within half a step of their numbers: no division, no limits.
bool all_near(const Row& row, float tolerance) {
  std::int32_t wrong = 0;
  const std::size_t n = row.x.size();
  const float *x = row.x.data(), *scale = row.scale.data(), *zero = row.zero.data();
  const std::int32_t* code = row.code.data();
  with_widest_vectors([&]() QTOOL_INLINE {
    for (std::size_t i = 0; i < n; ++i) {
      const float level = static_cast<float>(code[i]) - zero[i];
      const float slack = scale[i] * (0.5F + tolerance * (std::fabs(level) + 1.0F));
      wrong += std::fabs(x[i] - level * scale[i]) <= slack ? 0 : 1;
    }
  });
  return wrong == 0;
}

class Comparison {
 public:
  Comparison(const Coded& coded, const Numbers& numbers, bool transposed, std::int64_t every, Pages& pages,
             Threads& threads)
      : coded_(coded),
        numbers_(numbers),
        rows_(coded, numbers, transposed, every > 1, pages),
        transposed_(transposed),
        pages_(pages),
        threads_(threads),
        every_(every),
        grain_(std::max(std::int64_t{1}, part / coded.width / tile) * tile),
        tolerance_(static_cast<float>(4 * relative_step(numbers.type))) {}

  Nearness run(std::optional<CodeRange> range) {
    for (std::int64_t begin = 0; begin < coded_.rows; begin += grain_ * every_) {
      result_.count += std::min(grain_, coded_.rows - begin) * coded_.width;
    }
    if (inside()) return result_;
    if (!range) {
      range = in_use();
      check_ends(*range);
    }
    const Limits limits{tolerance_, static_cast<float>(range->lowest), static_cast<float>(range->highest)};
    result_.wrong = wrong(limits);
    if (result_.wrong > 0) find_first(limits);
    return result_;
  }

  void add_errors(Nearness& to) const {
    struct Sums {
      double signal = 0, noise = 0;
    };
    std::vector<Sums> sums(static_cast<std::size_t>(chunks()));
    for_each_chunk([&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      Sums& s = sums[static_cast<std::size_t>(chunk)];
      rows_.visit(begin, end, [&](std::int64_t, const Row& row) { add_squares(row, s.signal, s.noise); });
    });
    for (const Sums& s : sums) {
      to.signal += s.signal;
      to.noise += s.noise;
    }
  }

 private:
  std::int64_t chunks() const { return (coded_.rows + grain_ - 1) / grain_; }

  template <class F>
  void for_each_chunk(const F& f) const {
    threads_.for_each(coded_.rows, grain_, [&](std::int64_t begin, std::int64_t end) {
      if (begin / grain_ % every_ != 0) return;
      f(begin / grain_, begin, end);
      pages_.after((end - begin) * every_ * coded_.width);
    });
  }

  bool inside() const {
    std::vector<std::uint8_t> all(static_cast<std::size_t>(chunks()), 1);
    for_each_chunk([&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      std::uint8_t& own = all[static_cast<std::size_t>(chunk)];
      rows_.visit(begin, end,
                  [&](std::int64_t, const Row& row) { own = own != 0 && all_near(row, tolerance_) ? 1 : 0; });
    });
    return std::all_of(all.begin(), all.end(), [](std::uint8_t b) { return b != 0; });
  }

  std::int64_t wrong(const Limits& limits) const {
    std::vector<std::int64_t> wrong(static_cast<std::size_t>(chunks()));
    for_each_chunk([&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      std::int64_t& own = wrong[static_cast<std::size_t>(chunk)];
      rows_.visit(begin, end, [&](std::int64_t, const Row& row) {
        if (all_near(row, tolerance_)) return;
        for (std::size_t i = 0; i < row.x.size(); ++i) own += is_near(row, i, limits) ? 0 : 1;
      });
    });
    return std::accumulate(wrong.begin(), wrong.end(), std::int64_t{0});
  }

  /// A few sums side by side, so that the loop runs in vectors.
  static void add_squares(const Row& row, double& signal, double& noise) {
    constexpr std::size_t lanes = 8;
    std::array<double, lanes> a{}, b{};
    const std::size_t n = row.x.size();
    const float *x = row.x.data(), *scale = row.scale.data(), *zero = row.zero.data();
    const std::int32_t* code = row.code.data();
    with_widest_vectors([&]() QTOOL_INLINE {
      std::size_t i = 0;
      for (; i + lanes <= n; i += lanes) {
        for (std::size_t k = 0; k < lanes; ++k) {
          const auto v = static_cast<double>(x[i + k]);
          const double d = v - static_cast<double>((static_cast<float>(code[i + k]) - zero[i + k]) * scale[i + k]);
          a[k] += v * v;
          b[k] += d * d;
        }
      }
      for (std::size_t k = 0; i < n; ++i, ++k) {
        const auto v = static_cast<double>(x[i]);
        const double d = v - static_cast<double>((static_cast<float>(code[i]) - zero[i]) * scale[i]);
        a[k] += v * v;
        b[k] += d * d;
      }
    });
    for (std::size_t k = 0; k < lanes; ++k) {
      signal += a[k];
      noise += b[k];
    }
  }

  CodeRange in_use() const {
    std::vector<CodeRange> found(static_cast<std::size_t>(chunks()),
                                 {std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()});
    for_each_chunk([&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      CodeRange& own = found[static_cast<std::size_t>(chunk)];
      std::vector<std::int32_t> row(static_cast<std::size_t>(coded_.width));
      for (std::int64_t r = begin; r < end; ++r) {
        coded_.codes(r, row);
        const auto [low, high] = std::minmax_element(row.begin(), row.end());
        own.lowest = std::min<std::int64_t>(own.lowest, *low);
        own.highest = std::max<std::int64_t>(own.highest, *high);
      }
    });
    CodeRange all = found.front();
    for (const CodeRange& one : found) {
      all.lowest = std::min(all.lowest, one.lowest);
      all.highest = std::max(all.highest, one.highest);
    }
    return all;
  }

  /// Where numbers were cut off, codes end as those of a format do, and at most half of a range is lost.
  void check_ends(const CodeRange& range) {
    const auto beyond = [&](auto is_beyond) {
      std::vector<std::uint8_t> any(static_cast<std::size_t>(chunks()));
      for_each_chunk([&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
        rows_.visit(begin, end, [&](std::int64_t, const Row& row) {
          for (std::size_t i = 0; i < row.x.size(); ++i) {
            if (is_beyond(row, i)) any[static_cast<std::size_t>(chunk)] = 1;
          }
        });
      });
      return std::any_of(any.begin(), any.end(), [](std::uint8_t b) { return b != 0; });
    };
    const auto low = static_cast<float>(range.lowest), high = static_cast<float>(range.highest);
    const auto above = [&](const Row& r, std::size_t i) { return r.x[i] / r.scale[i] + r.zero[i] > high + 0.51F; };
    const auto below = [&](const Row& r, std::size_t i) { return r.x[i] / r.scale[i] + r.zero[i] < low - 0.51F; };
    const auto is_power = [](std::int64_t n) { return n > 0 && (n & (n - 1)) == 0; };
    const bool is_signed = range_of(coded_.type).first < 0;
    // Signed codes may be stored as unsigned ones about the middle.
    const std::int64_t middle = is_signed ? 0 : (range_of(coded_.type).second + std::int64_t{1}) / 2;
    const std::int64_t lowest = range.lowest - middle, highest = range.highest - middle;
    const bool low_ends =
        is_power(-lowest) || is_power(1 - lowest) || (!is_signed && (range.lowest == 0 || range.lowest == 1));
    const bool high_ends = is_power(highest + 1) || (!is_signed && is_power(range.highest + 1));
    if (!high_ends && beyond(above)) {
      result_.range = "numbers are cut off at code " + std::to_string(range.highest) + ", which ends no format";
    } else if (!low_ends && beyond(below)) {
      result_.range = "numbers are cut off at code " + std::to_string(range.lowest) + ", which ends no format";
    } else if (beyond([&](const Row& r, std::size_t i) {
                 const float t = r.x[i] / r.scale[i];
                 const float most = t > 0 ? high - r.zero[i] : r.zero[i] - low;
                 constexpr double rounding = 1 - 1e-4;
                 return (t > 0 ? above(r, i) : below(r, i)) &&
                        static_cast<double>(std::fabs(t)) * least_share * rounding > static_cast<double>(most) + 0.5;
               })) {
      result_.range = "more than half of its range is cut off";
    }
  }

  void find_first(const Limits& limits) {
    std::vector<std::int64_t> first(static_cast<std::size_t>(chunks()), -1);
    for_each_chunk([&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      std::int64_t& own = first[static_cast<std::size_t>(chunk)];
      rows_.visit(begin, end, [&](std::int64_t r, const Row& row) {
        for (std::size_t i = 0; own < 0 && i < row.x.size(); ++i) {
          if (!is_near(row, i, limits)) own = r * coded_.width + static_cast<std::int64_t>(i);
        }
      });
    });
    const auto found = std::find_if(first.begin(), first.end(), [](std::int64_t i) { return i >= 0; });
    if (found == first.end()) return;
    const std::int64_t r = *found / coded_.width;
    const auto i = static_cast<std::size_t>(*found % coded_.width);
    rows_.visit(r, r + 1, [&](std::int64_t, const Row& row) {
      result_.number = static_cast<double>(row.x[i]);
      result_.scale = static_cast<double>(row.scale[i]);
      result_.code = row.code[i];
      const float t = std::nearbyint(row.x[i] / row.scale[i]) + row.zero[i];
      result_.nearest = std::isfinite(t) ? static_cast<std::int64_t>(std::clamp(t, limits.low, limits.high)) : 0;
    });
    std::int64_t e = transposed_ ? static_cast<std::int64_t>(i) * coded_.rows + r : *found;
    result_.at.assign(numbers_.dims.size(), 0);
    for (std::size_t d = numbers_.dims.size(); d-- > 0;) {
      result_.at[d] = e % numbers_.dims[d];
      e /= numbers_.dims[d];
    }
  }

  const Coded& coded_;
  const Numbers& numbers_;
  const Rows rows_;
  const bool transposed_;
  Pages& pages_;
  Threads& threads_;
  const std::int64_t every_;  // chunk that is looked at
  const std::int64_t grain_;
  const float tolerance_;
  Nearness result_;
};

std::int64_t elements(const std::vector<std::int64_t>& dims) {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

}  // namespace

std::optional<bool> is_transposed(const Coded& coded, const Numbers& numbers, bool square) {
  const auto &a = coded.dims, &b = numbers.dims;
  const bool turned = a.size() == 2 && b.size() == 2 && a[0] == b[1] && a[1] == b[0];
  if (a == b) return turned && square;
  if (turned) return true;
  // Rows may have been written as a line, or a line as a row.
  return a.size() <= 2 && b.size() <= 2 && std::min(a.size(), b.size()) < 2 && elements(a) == elements(b)
             ? std::optional(false)
             : std::nullopt;
}

std::optional<Nearness> nearness(const Coded& coded, const Numbers& numbers, std::optional<CodeRange> range,
                                 bool transposed, bool errors, std::int64_t every, Pages& pages, Threads& threads) {
  if (elements(coded.dims) != numbers.count() || numbers.count() == 0) return std::nullopt;
  Comparison comparison(coded, numbers, transposed, every, pages, threads);
  Nearness found = comparison.run(range);
  if (errors) comparison.add_errors(found);
  return found;
}

std::vector<std::uint8_t> plain_codes(const Coded& coded, bool transposed, std::int64_t shift) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(coded.rows * coded.width));
  std::vector<std::int32_t> row(static_cast<std::size_t>(coded.width));
  for (std::int64_t r = 0; r < coded.rows; ++r) {
    coded.codes(r, row);
    for (std::int64_t i = 0; i < coded.width; ++i) {
      const std::int64_t at = transposed ? i * coded.rows + r : r * coded.width + i;
      bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(row[static_cast<std::size_t>(i)] + shift);
    }
  }
  return bytes;
}

}  // namespace qtool::verify

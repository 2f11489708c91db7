// SPDX-License-Identifier: Apache-2.0
// Histogram: how often which numbers came, in one pass over data whose range nobody knows yet. A bin is the sign, the
// exponent and the leading mantissa bits of a float, so its width follows the numbers: a single huge outlier does not
// coarsen the rest, as it would with bins of one width. Numbers more than 2^16 below the largest are counted as one.
// Counts depend on the multiset of numbers alone: no order, no batch, no thread enters.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "formats/base/bytes.h"

namespace qtool {

class Histogram {
 public:
  /// `bins` (16 .. 65536, rounded up to a power of two) for the numbers from minus to plus the largest magnitude would
  /// be as fine as this is at its coarsest: a factor of two is cut into bins / 2. Memory: at most 17 x bins x 8 bytes.
  explicit Histogram(std::int64_t bins);
  /// Finite numbers only.
  void add(float x);
  /// The finite ones of several.
  void add(std::span<const float>);
  std::int64_t count() const { return count_; }
  std::int64_t zeros() const { return zeros_; }
  float low() const { return low_; }  // smallest and largest number; 0 where none came
  float high() const { return high_; }

  /// Numbers between `low` and `high` (one bin of the histogram, cut to the range seen), `count` of them.
  struct Bin {
    float low = 0, high = 0;
    std::int64_t count = 0;
    float middle() const { return low + (high - low) / 2; }
  };
  /// Ascending; zeros as a bin of their own; empty bins left out. `per_octave` > 0: neighbours joined so that a factor
  /// of two has at most that many.
  std::vector<Bin> list(std::int64_t per_octave = 0) const;
  /// The number that a share `q` of all numbers does not exceed, interpolated inside its bin.
  static double quantile(std::span<const Bin> bins, double q);
  /// All that was counted, for later; what is read must have been written by a histogram of as many bins.
  void write(ByteWriter&) const;
  void read(ByteReader&);
  /// Bins of absolute values.
  static std::vector<Bin> absolute(std::span<const Bin> bins);

 private:
  using Page = std::vector<std::int64_t>;  // one sign and exponent
  void open(std::uint32_t page);
  void add_known(std::span<const float> x);
  int mantissa_;                                  // bits of it that choose the bin
  std::array<std::unique_ptr<Page>, 512> pages_;  // by sign and exponent field
  std::array<std::int64_t, 2> tiny_{};            // positive, negative
  std::uint32_t top_ = 0;                         // largest exponent field seen
  std::int64_t count_ = 0, zeros_ = 0;
  float low_ = 0, high_ = 0;
};

}  // namespace qtool

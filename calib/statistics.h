// SPDX-License-Identifier: Apache-2.0
// Statistics: what one value showed on the calibration data, per tensor or per channel: range, count, histogram.
// All but the moving averages depends on the multiset of numbers alone; those depend on the order of the samples.
// Neither batches nor threads enter.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calib/extremes.h"
#include "calib/histogram.h"
#include "formats/base/bytes.h"
#include "formats/base/threads.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// What one channel showed.
struct Channel {
  Extremes extremes;
  std::int64_t count = 0;  // finite ones
  std::optional<Histogram> histogram;
  /// Moving averages of the lowest and highest number of every sample; NaN before the first.
  double average_low = std::numeric_limits<double>::quiet_NaN(), average_high = average_low;
  std::int64_t samples = 0;  // behind the averages
};

class Statistics {
 public:
  static constexpr int whole = std::numeric_limits<int>::min();  // axis: per tensor

  /// `axis` < 0: from the back. `bins` 0: no histogram. `smoothing`: the weight of a sample in the moving averages,
  /// at least (the first ones count alike); empty: no averages. They are per tensor, and need batches in order.
  Statistics(std::string name, int axis, std::int64_t bins, std::optional<double> smoothing = {})
      : name_(std::move(name)), axis_(axis), bins_(bins), smoothing_(smoothing) {}
  /// Error(Code::calibration) naming the value for NaN, for a type that is not floating-point, for an axis that is not
  /// there and for a number of channels that changes.
  void add(const Tensor&, Threads&);

  /// Empty before the first add().
  const std::vector<Channel>& channels() const { return channels_; }
  std::int64_t infinite() const { return infinite_; }
  std::int64_t count() const;
  /// All that was seen, for later; what is read must have been written by one that was made alike.
  void write(ByteWriter&) const;
  void read(ByteReader&);

 private:
  [[noreturn]] void fail(const std::string& what) const;
  void add_whole(std::span<const float> x, Threads& threads);
  void add_samples(std::span<const float> x, std::int64_t samples);
  void add_channel(std::size_t channel, std::span<const float> x, std::size_t inner);

  std::string name_;
  int axis_;
  std::int64_t bins_;
  std::optional<double> smoothing_;
  std::vector<Channel> channels_;
  std::int64_t infinite_ = 0;
};

/// Sums of elements, or of their squares, per index of one axis, in double; element by element in the order of the
/// batches, so that the bytes depend neither on how samples are cut into batches nor on threads.
class ChannelSums {
 public:
  enum class Of : std::uint8_t { elements, squares };
  explicit ChannelSums(Of of = Of::elements) : of_(of) {}
  /// `axis` < 0: from the back. False, with nothing added, when the tensor has no such axis or another extent than
  /// `channels`.
  bool add(const Tensor&, std::int64_t channels, int axis, Threads&);
  /// Per channel; empty when nothing was seen.
  std::vector<double> means() const;
  const std::vector<double>& sums() const { return sums_; }
  /// Elements of one channel.
  std::int64_t count() const { return count_; }
  void write(ByteWriter&) const;
  void read(ByteReader&);

 private:
  Of of_;
  std::vector<double> sums_;
  std::int64_t count_ = 0;
};

}  // namespace qtool

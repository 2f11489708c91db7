// SPDX-License-Identifier: Apache-2.0
// Observers: what passes measure on the calibration data. One sweep serves everyone who asks, and results are kept
// (calib/gather.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calib/data.h"
#include "calib/executor.h"
#include "calib/gather.h"
#include "calib/statistics.h"
#include "formats/base/journal.h"
#include "formats/ir/graph.h"
#include "formats/number/number.h"

namespace qtool {

/// How a range is chosen from data.
struct ObserverOptions {
  std::string method = "minmax";         // one of observer_methods
  double percentile = 99.99;             // percent inside: of |x| (symmetric), or with half of the rest cut per tail
  double smoothing = 0.01;               // least weight of a sample in the moving averages
  std::int64_t bins = 2048;              // precision of the online histogram (calib/histogram.h)
  int axis = -1;                         // per channel along this axis; -1: per tensor
  const NumberFormat* format = nullptr;  // entropy, mse, mae: whose grid to fit; null: int8
  bool symmetric = false;
};

/// minmax          the lowest and highest number of all
/// moving_average  the averages of those of every sample (entries of the value's first axis): one sample with an
/// outlier
///                 counts little. A sample weighs 1/n as the n-th, and `smoothing` at least, so that few samples are
///                 averaged and of many the later ones count more. Per tensor only.
/// percentile      `percentile` of the numbers
/// entropy, mse, mae   least divergence, squared or absolute error of the quantized numbers (calib/clip.h)
inline constexpr std::array<std::string_view, 6> observer_methods{
    "minmax", "moving_average", "percentile", "entropy", "mse", "mae"};

/// One entry per channel (one in all per tensor). Ranges are those of the numbers seen; they do not always contain 0.
/// Infinities (masks) are left out and counted: a value that has them cannot be quantized without changing its meaning.
struct Range {
  std::vector<float> low, high;  // 0, 0 where nothing was seen
  std::int64_t count = 0;        // finite elements seen
  std::int64_t infinite = 0;     // infinite ones
};

/// Data, executor and caches of a run; what passes measure with.
class Calibration {
 public:
  /// `data` may be null: passes that need it then throw Error(Code::calibration).
  Calibration(std::shared_ptr<const Dataset> data, Threads& threads, Journal& journal, Keeping keeping = {});
  ~Calibration();

  bool has_data() const;
  const Dataset& data() const;

  /// Ranges of values of the given reading, one sweep for all that are not cached, in the order of the requests. They
  /// depend neither on the batch (beyond what it does to products) nor on threads. Error(Code::calibration) naming the
  /// value for NaN, for values that are not floating-point and for an axis that is not there; a warning in the journal
  /// for infinities and for values that never came (in branches not taken).
  struct Request {
    ValueId value;
    ObserverOptions options;
  };
  std::vector<Range> ranges(const Graph&, Reading, std::span<const Request>);

  /// Means of values per channel, over at most `batches` batches (0: all), one sweep for all that are not cached. Empty
  /// where nothing was seen, or where the value has no such axis or another extent than `channels`.
  struct MeanRequest {
    ValueId value = ValueId::none;
    Quant seen_through;  // null: the value as it is
    std::int64_t channels = 0;
    int axis = -1;  // negative: from the back
  };
  std::vector<std::vector<double>> means(const Graph&, Reading, std::int64_t batches, std::span<const MeanRequest>);

  /// Sums of squares in place of means, with what they are sums of; nothing where the value does not fit.
  std::vector<ChannelSums> squares(const Graph&, Reading, std::int64_t batches, std::span<const MeanRequest>);

  /// Runs once over at most `batches` batches (0: all), for everything else; nothing is cached. `visit` is called as
  /// run_dataset() does: for different values from several threads at once.
  void sweep(const Graph&, Reading, std::span<const ValueId>, std::int64_t batches,
             const std::function<void(std::int64_t batch, ValueId, const Tensor&)>& visit);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qtool

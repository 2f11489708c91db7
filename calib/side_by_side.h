// SPDX-License-Identifier: Apache-2.0
// Items of a list worked on side by side, one thread each, where what must keep their order keeps it. Cutting a run of
// a model into samples needs no barriers, and every sample stays in one processor's caches.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "formats/base/threads.h"

namespace qtool {

/// The place of one item among those in progress.
class Turn {
 public:
  Turn(std::atomic<std::int64_t>* before, std::atomic<std::int64_t>& own) : before_(before), own_(own) {}
  /// Runs `stage`, the item's k-th call of this, when the k-th of the item before has ended. So what the k-th stages
  /// of all items write needs no lock; two of them with different k may run at the same time.
  template <class Stage>
  void in_order(const Stage& stage) {
    wait(stages_);
    stage();
    pass(++stages_);
  }
  /// The same when the item before has ended altogether: stages with this nothing of its kind runs beside.
  template <class Stage>
  void last(const Stage& stage) {
    wait(ended - 1);
    stage();
  }

 private:
  friend void side_by_side(Threads&, std::int64_t, double, const std::function<void(std::int64_t, Turn&)>&);
  static constexpr std::int64_t ended = std::int64_t{1} << 62, failed = -1;
  void wait(std::int64_t stage) const;  // until the item before has passed it
  void pass(std::int64_t stages);

  std::atomic<std::int64_t>* before_;  // stages that the item before has passed; null: there is none
  std::atomic<std::int64_t>& own_;
  std::int64_t stages_ = 0;
};

/// Calls work(item, turn) for the items [0, count), as many of them side by side as there are threads, while items of
/// `bytes_each` bytes of memory stay within a gibibyte together. Where that leaves threads without an item of their
/// own, items run one after the other, each on all threads. The exception of the lowest item that throws is rethrown;
/// items behind it may have begun, but pass no further stage.
void side_by_side(Threads&, std::int64_t count, double bytes_each,
                  const std::function<void(std::int64_t item, Turn&)>& work);

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "calib/side_by_side.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <vector>

namespace qtool {
namespace {

// Of all items in progress together.
constexpr double most_bytes = 1 << 30;

/// Thrown in an item behind one that failed; nobody outside sees it.
struct Abandoned {};

}  // namespace

void Turn::wait(std::int64_t stage) const {
  if (before_ == nullptr) return;
  std::int64_t passed = before_->load(std::memory_order_acquire);
  while (passed <= stage) {
    if (passed == failed) throw Abandoned{};
    before_->wait(passed, std::memory_order_acquire);
    passed = before_->load(std::memory_order_acquire);
  }
}

void Turn::pass(std::int64_t stages) {
  own_.store(stages, std::memory_order_release);
  own_.notify_all();
}

void side_by_side(Threads& threads, std::int64_t count, double bytes_each,
                  const std::function<void(std::int64_t item, Turn&)>& work) {
  std::vector<std::atomic<std::int64_t>> passed(static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
  const auto run = [&](std::int64_t item) {
    auto* const own = passed.data() + item;
    Turn turn(item == 0 ? nullptr : own - 1, *own);
    try {
      work(item, turn);
      turn.wait(Turn::ended - 1);
    } catch (...) {
      turn.pass(Turn::failed);
      throw;
    }
    turn.pass(Turn::ended);
  };
  const std::int64_t all = threads.count();
  const std::int64_t width =
      bytes_each * static_cast<double>(all) <= most_bytes ? all : static_cast<std::int64_t>(most_bytes / bytes_each);
  // A last round that would leave most threads idle is better cut item by item.
  const std::int64_t rest = count % std::max<std::int64_t>(width, 1);
  const std::int64_t end = 2 * width <= all ? 0 : 2 * rest <= all ? count - rest : count;
  std::atomic<std::int64_t> open{0};
  std::mutex mutex;
  std::int64_t failed = count;
  std::exception_ptr failure;
  if (end > 0) {
    threads.for_each(width, 1, [&](std::int64_t, std::int64_t) {
      for (std::int64_t item = open++; item < end; item = open++) {
        try {
          run(item);
        } catch (...) {
          const std::lock_guard lock(mutex);
          open = end;
          if (item < failed) {
            failed = item;
            failure = std::current_exception();
          }
        }
      }
    });
  }
  if (failure) std::rethrow_exception(failure);
  for (std::int64_t item = end; item < count; ++item) run(item);
}

}  // namespace qtool

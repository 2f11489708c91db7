// SPDX-License-Identifier: Apache-2.0
// Threads: what computations run on. The only parallelism of qtool: work is cut by `grain`, never by the number of
// threads, so that results have the same bytes on one thread and on many. Exceptions travel to the caller. Carries the
// kernels for products of integers too, and the wish to stop: whoever makes the threads chooses both.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>

namespace qtool {

class IntegerKernels;  // formats/base/integer_product.h

class Threads {
 public:
  /// `count` threads including the caller; 0: as many as the process may use (cgroup and affinity honoured).
  /// `integers` outlives the threads; null: operators take their plain way, with the same results.
  /// Once `stop` is requested, for_each() begins no further chunk and throws Error(Code::interrupted): everything that
  /// computes ends within a chunk's time.
  explicit Threads(int count = 0, const IntegerKernels* integers = nullptr, std::stop_token stop = {});
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const;
  const IntegerKernels* integers() const { return integers_; }

  /// Calls body(begin, end) for consecutive chunks of [0, n) of `grain` items (the last may be shorter), in any
  /// order and on any thread. Nested calls run inline. The first exception (lowest chunk) is rethrown.
  void for_each(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
  const IntegerKernels* integers_;
  std::stop_token stop_;
};

}  // namespace qtool

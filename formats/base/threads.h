// SPDX-License-Identifier: Apache-2.0
// Threads: the only parallelism of qtool. Work is cut by `grain`, never by the number of threads, so that
// results have the same bytes on one thread and on many. Exceptions travel to the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace qtool {

class Threads {
 public:
  /// `count` threads including the caller; 0: as many as the process may use (cgroup and affinity honoured).
  explicit Threads(int count = 0);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const;

  /// Calls body(begin, end) for consecutive chunks of [0, n) of `grain` items (the last may be shorter), in any
  /// order and on any thread. Nested calls run inline. The first exception (lowest chunk) is rethrown.
  void for_each(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace qtool

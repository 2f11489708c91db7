// SPDX-License-Identifier: Apache-2.0
#include "formats/base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "formats/base/stop.h"

namespace qtool {
namespace {

thread_local bool inside_pool = false;

int available() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

struct Threads::Pool {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake, done;
  // The current job; guarded by mutex except for the atomics.
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::int64_t n = 0, grain = 1;
  std::atomic<std::int64_t> next{0};
  std::uint64_t generation = 0;
  int busy = 0;
  bool stop = false;
  std::exception_ptr failure;
  std::int64_t failed_chunk = std::numeric_limits<std::int64_t>::max();
  std::mutex caller;  // one job at a time

  void drain(const std::stop_token& wish) {
    inside_pool = true;
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain);
      if (begin >= n) break;
      try {
        check_stop(wish);
        (*body)(begin, std::min(begin + grain, n));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (begin < failed_chunk) {
          failed_chunk = begin;
          failure = std::current_exception();
        }
      }
    }
    inside_pool = false;
  }

  void work(const std::stop_token& wish) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      if (body == nullptr) continue;  // the job ended before this worker woke
      ++busy;
      lock.unlock();
      drain(wish);
      lock.lock();
      if (--busy == 0) done.notify_all();
    }
  }
};

Threads::Threads(int count, const IntegerKernels* integers, std::stop_token stop)
    : pool_(std::make_unique<Pool>()), integers_(integers), stop_(std::move(stop)) {
  const int total = count > 0 ? count : available();
  for (int i = 1; i < total; ++i) pool_->workers.emplace_back([pool = pool_.get(), wish = stop_] { pool->work(wish); });
}

Threads::~Threads() {
  {
    const std::lock_guard lock(pool_->mutex);
    pool_->stop = true;
  }
  pool_->wake.notify_all();
  for (auto& worker : pool_->workers) worker.join();
}

int Threads::count() const { return static_cast<int>(pool_->workers.size()) + 1; }

void Threads::for_each(std::int64_t n, std::int64_t grain,
                       const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (n <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  if (inside_pool || pool_->workers.empty() || n <= grain) {
    for (std::int64_t begin = 0; begin < n; begin += grain) {
      check_stop(stop_);
      body(begin, std::min(begin + grain, n));
    }
    return;
  }
  const std::lock_guard turn(pool_->caller);
  Pool& pool = *pool_;
  {
    const std::lock_guard lock(pool.mutex);
    pool.body = &body;
    pool.n = n;
    pool.grain = grain;
    pool.next = 0;
    pool.failure = nullptr;
    pool.failed_chunk = std::numeric_limits<std::int64_t>::max();
    ++pool.generation;
  }
  pool.wake.notify_all();
  pool.drain(stop_);
  std::unique_lock lock(pool.mutex);
  pool.done.wait(lock, [&] { return pool.busy == 0; });
  pool.body = nullptr;
  if (pool.failure) std::rethrow_exception(pool.failure);
}

}  // namespace qtool

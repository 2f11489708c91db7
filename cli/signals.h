// SPDX-License-Identifier: Apache-2.0
// Signals: SIGINT, SIGTERM and SIGHUP become a stop token; a second one ends the program at once. A closed pipe is
// seen where it is written to, not as a signal.
#pragma once

#include <stop_token>
#include <thread>

namespace qtool {

class Signals {
 public:
  /// Make it before any other thread: threads inherit the mask.
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  std::stop_token token() const { return stop_.get_token(); }

 private:
  std::stop_source stop_;
  int signals_ = -1, done_ = -1;  // descriptors: signals that came, and "the program ends"
  std::thread waiter_;
};

/// Descriptors 0, 1 and 2 are open, if need be on /dev/null: a file opened later must not become standard output.
void keep_standard_streams();

}  // namespace qtool

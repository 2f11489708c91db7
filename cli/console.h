// SPDX-License-Identifier: Apache-2.0
// Console: the only thing that prints. Results go to standard output, everything else to standard error. Progress is a
// bar with ETA on a terminal and a plain line every ten seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "formats/base/error.h"
#include "formats/base/journal.h"
#include "formats/base/json.h"

namespace qtool {

struct CommonOptions {
  std::string_view command;  // that runs; empty: none yet
  std::string json, log;
  bool quiet = false, verbose = false;
  std::int64_t threads = 0;
};

class Console {
 public:
  /// Opens the log. Error(Code::usage) when that is not possible.
  Console(CommonOptions options, std::stop_token stop);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  const CommonOptions& options() const { return options_; }
  int threads() const { return static_cast<int>(options_.threads); }
  std::stop_token stop() const { return stop_; }
  /// Facts go to the log, warnings and (verbose) facts to standard error; progress to the bar. A stop that was asked
  /// for ends the work as Error(Code::interrupted) at the next sign of progress.
  Journal& journal() { return journal_; }

  /// A result for people. Nothing while standard output belongs to `--json -`.
  void print(std::string_view text);
  /// A summary: like print(), but not with --quiet.
  void summary(std::string_view text);
  /// A remark on standard error; not with --quiet.
  void note(std::string_view text);
  void warn(std::string_view text);
  /// The message on standard error, in the log and, when no result was written, as the result for --json:
  /// {"error": {"code", "name", "message", "hint"}}.
  void error(Code code, const std::string& text, const std::string& hint);
  /// The result for --json; nothing happens without it. An object that names no schema gets that of the command,
  /// "qtool.inspect/1"; lists have none.
  void result(const Json& report);
  /// Ends the bar and flushes. Error when standard output did not take everything (a closed pipe is no error).
  void finish();

 private:
  void on_fact(const Json&);
  void log_line(const Json&);
  void on_progress(const Progress&);
  void draw(const Progress&, double seconds);
  void clear_bar();
  void write_error(std::string_view text);
  std::string colored(std::string_view text, std::string_view color) const;

  CommonOptions options_;
  std::stop_token stop_;
  bool terminal_, color_;
  std::FILE* log_ = nullptr;
  bool has_result_ = false;
  Journal journal_;
  std::mutex mutex_;  // of everything below
  bool bar_shown_ = false;
  std::string what_;
  std::chrono::steady_clock::time_point phase_start_, last_drawn_;
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Journal: the facts of a run, one JSON object each, in order; and progress, which is not kept. Passes write
// facts ("skip", "change", "scale", ...) and never print; cli turns the journal into reports and bars.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/json.h"

namespace qtool {

/// done of total units of `what`; total 0: unknown.
struct Progress {
  std::string_view what;
  std::int64_t done = 0, total = 0;
};

class Journal {
 public:
  using OnFact = std::function<void(const Json&)>;
  using OnProgress = std::function<void(const Progress&)>;
  explicit Journal(OnFact on_fact = {}, OnProgress on_progress = {})
      : on_fact_(std::move(on_fact)), on_progress_(std::move(on_progress)) {}

  /// `kind` becomes the member "kind". Thread-safe.
  void fact(std::string_view kind, Json object);
  /// A thing that was not done at `node` (or tensor), and why; shown in every report.
  void skip(std::string_view pass, std::string_view node, std::string_view why);
  /// A remark for the user that is not an error.
  void warn(std::string_view where, std::string_view text);
  void progress(const Progress& p) const {
    if (on_progress_) on_progress_(p);
  }

  const std::vector<Json>& facts() const { return facts_; }

 private:
  std::vector<Json> facts_;
  OnFact on_fact_;
  OnProgress on_progress_;
  std::mutex mutex_;
};

}  // namespace qtool

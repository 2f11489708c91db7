// SPDX-License-Identifier: Apache-2.0
// Memory of the two files that are compared: whole they may be larger than there is.
#pragma once

#include <atomic>
#include <cstdint>

#include "backends/verify/onnx_file.h"

namespace qtool::verify {

/// Lets go of what was read of both files now and then. Thread-safe: what somebody still looks at is fetched again.
class Pages {
 public:
  /// Both outlive it.
  Pages(const FileView& file, const FileView& model) : file_(file), model_(model) {}
  /// After a stretch of so many elements of which some were looked at: the system fetches much around them.
  void after(std::int64_t elements) {
    constexpr std::int64_t many = 1 << 21;
    if (touched_ += elements; touched_ < many) return;
    touched_ = 0;
    file_.let_go();
    model_.let_go();
  }

 private:
  const FileView &file_, &model_;
  std::atomic<std::int64_t> touched_ = 0;
};

}  // namespace qtool::verify

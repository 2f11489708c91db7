// SPDX-License-Identifier: Apache-2.0
// Resume: what an interrupted job leaves in OUT.resume beside its output, so that the same command goes on where it
// stopped; and the cache that jobs share. Neither changes a byte of what is written.
#pragma once

#include <filesystem>
#include <stop_token>

#include "calib/gather.h"
#include "cli/job.h"
#include "cli/manifest.h"
#include "formats/base/hash.h"
#include "formats/base/journal.h"
#include "formats/base/kept.h"
#include "formats/base/threads.h"

namespace qtool {

/// What this processor and these libraries make of float arithmetic, in words: where it differs, so may the last bits.
std::string arithmetic_text();
/// What statistics depend on beside the graph.
Json origin_json(const std::string& calibration_sha256);

class Resumable {
 public:
  /// Error(Code::usage), saying what differs, when an interrupted run of another job left the folder and
  /// request.restart does not drop it. The journal must outlive this.
  Resumable(const JobRequest& request, const std::filesystem::path& output, const Provenance& from, Journal& journal);
  /// When a stop was asked for and an exception is on its way: keeps what was computed. Else the folder goes.
  ~Resumable();
  Resumable(const Resumable&) = delete;
  Resumable& operator=(const Resumable&) = delete;

  Kept& kept() { return kept_; }
  /// Of everything that the job depends on.
  const Digest& job() const { return job_; }
  /// Facts about what was found and what was computed.
  void tell() const;

 private:
  std::filesystem::path folder_;
  Journal& journal_;
  std::stop_token stop_;
  int exceptions_;
  Digest job_;
  Kept kept_;
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Staging: a folder beside the output in which the new files are until they are whole and judged. publish() renames
// them into place, so that the output path holds the old file or the whole new one; without it nothing remains.
#pragma once

#include <filesystem>

namespace qtool {

/// Error(Code::usage) in one sentence when `output` cannot become a model file: a directory or a device, the input
/// itself, there already (no_clobber), or in a folder that does not exist.
void check_output(const std::filesystem::path& input, const std::filesystem::path& output, bool no_clobber);

class Staging {
 public:
  /// Removes what killed jobs left in the folder of `output`; a job that runs holds a lock (flock) on its own.
  /// Error(Code::usage or Code::no_fit) when that folder cannot be written.
  explicit Staging(std::filesystem::path output);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  /// Where to write: the output's name inside the folder, so that names of data files are final. Files may be written
  /// with Sync::later: publish() waits for the disk.
  std::filesystem::path file() const { return folder_ / output_.filename(); }
  /// Where to write what is published beside the output, named after it.
  std::filesystem::path manifest() const { return folder_ / beside(".manifest.json"); }
  std::filesystem::path lock() const { return folder_ / beside(".lock"); }
  /// The folder itself, for scratch.
  const std::filesystem::path& folder() const { return folder_; }
  /// Bytes of the staged model and its data files.
  std::uintmax_t bytes() const;
  /// Data files of the model that is replaced go when the new one is in place. The old manifest and lock go before, the
  /// new ones come last: there is none, or it is that of the model. `no_clobber`: Error(Code::usage) when the output
  /// has appeared meanwhile.
  void publish(bool no_clobber);

 private:
  std::filesystem::path beside(const char* ending) const { return output_.filename().concat(ending); }
  std::filesystem::path output_, folder_;
  int held_ = -1;  // the folder, open and locked as long as the job runs
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Kept: what a run leaves for later ones, in stores (formats/base/store.h) of two kinds. A cache takes every whole
// result at once, for whoever needs it next. A working folder is for the same command, should this run be interrupted:
// it is written every few seconds at most, so that short runs leave the disk alone, and goes when the run ends.
//
// Keeping is a favour: when a folder cannot be written, the run goes on without, and says so once.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "formats/base/bytes.h"
#include "formats/base/journal.h"
#include "formats/base/store.h"

namespace qtool {

/// Thread-safe.
class Kept {
 public:
  /// Fills an entry of the store.
  using Write = std::function<void(ByteWriter&, const Store&)>;
  using Read = std::function<void(ByteReader&, const Store::Entry&)>;

  /// Folders may be empty: none. Facts "kept" in the journal say what went wrong. `pause`: between two visits of the
  /// working folder, at least; it grows with the time that they take.
  Kept(const std::filesystem::path& cache, const std::filesystem::path& work, Journal& journal,
       std::chrono::duration<double> pause = std::chrono::seconds(1));

  /// Nothing is written from now on; `asked` hears of every find(). For telling what a run would find.
  using Asked = std::function<void(std::string_view kind, const Json& about, bool found)>;
  void rehearse(Asked asked) { asked_ = std::move(asked); }
  bool rehearsing() const { return asked_ != nullptr; }

  /// True when there is a whole entry that `read` took to its end without an Error(Code::input).
  bool find(std::string_view kind, const Digest& key, const Json& about, const Read& read);
  /// A whole result that was computed. `write` is called now or later; what it refers to it must own.
  void keep(std::string_view kind, const Digest& key, const Json& about, Write write);
  /// The same of what only the next run of this command needs. The last one of its kind counts.
  void keep_latest(std::string_view kind, const Digest& key, const Json& about, Write write);
  /// The state of something in progress; written at once when it is time to, else not at all.
  void progress(std::string_view kind, const Digest& key, const Json& about, const Write& write);
  /// What was in progress is done.
  void forget(std::string_view kind, const Digest& key);

  /// Writes into the working folder all that waits. Called when a run is interrupted.
  void flush();
  const std::optional<Store>& cache() const { return cache_; }
  const std::optional<Store>& work() const { return work_; }

  struct Count {
    std::int64_t found = 0, computed = 0;
  };
  /// By kind of entry: of those that were asked for, how many were there.
  const std::map<std::string, Count>& counts() const { return counts_; }

 private:
  using Name = std::pair<std::string, Digest>;
  struct Waiting {
    Json about;
    Write write;
  };
  bool due() const;
  void save(std::optional<Store>& store, const Name& name, const Json& about, const Write& write);
  void flush_locked();

  std::mutex mutex_;
  Asked asked_;
  std::optional<Store> cache_, work_;
  Journal& journal_;
  std::map<Name, Waiting> waiting_;  // for the working folder
  std::map<std::string, Count> counts_;
  std::chrono::steady_clock::time_point last_;
  std::chrono::duration<double> least_pause_, pause_;
};

}  // namespace qtool

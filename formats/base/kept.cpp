// SPDX-License-Identifier: Apache-2.0
#include "formats/base/kept.h"

#include <algorithm>
#include <array>

#include "formats/base/error.h"

namespace qtool {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double share_of_time = 20;  // writing takes one part in so many at most

}  // namespace

Kept::Kept(const std::filesystem::path& cache, const std::filesystem::path& work, Journal& journal,
           std::chrono::duration<double> pause)
    : journal_(journal), last_(Clock::now()), least_pause_(pause), pause_(pause) {
  if (!cache.empty()) cache_.emplace(cache);
  if (!work.empty()) work_.emplace(work);
}

bool Kept::find(std::string_view kind, const Digest& key, const Json& about, const Read& read) {
  const auto stores = [&] {
    const std::lock_guard lock(mutex_);
    return std::array{cache_, work_};
  }();
  const bool found = std::any_of(stores.begin(), stores.end(), [&](const std::optional<Store>& store) {
    const auto entry = store ? store->load(kind, key) : std::nullopt;
    if (!entry) return false;
    try {
      ByteReader reader(entry->bytes);
      read(reader, *entry);
      reader.end();
      return true;
    } catch (const Error& e) {
      if (e.code() != Code::input) throw;
      return false;
    }
  });
  const std::lock_guard lock(mutex_);
  if (found) ++counts_[std::string(kind)].found;
  if (asked_) asked_(kind, about, found);
  return found;
}

bool Kept::due() const { return work_ && !asked_ && Clock::now() - last_ >= pause_; }

void Kept::keep(std::string_view kind, const Digest& key, const Json& about, Write write) {
  const std::lock_guard lock(mutex_);
  ++counts_[std::string(kind)].computed;
  if (asked_) return;
  const Name name(kind, key);
  if (cache_) return save(cache_, name, about, write);
  if (!work_) return;
  waiting_[name] = {about, std::move(write)};
  if (due()) flush_locked();
}

void Kept::keep_latest(std::string_view kind, const Digest& key, const Json& about, Write write) {
  const std::lock_guard lock(mutex_);
  if (!work_ || asked_) return;
  std::erase_if(waiting_, [&](const auto& other) { return other.first.first == kind; });
  waiting_[Name(kind, key)] = {about, std::move(write)};
  if (due()) flush_locked();
}

void Kept::progress(std::string_view kind, const Digest& key, const Json& about, const Write& write) {
  const std::lock_guard lock(mutex_);
  if (!due()) return;
  waiting_[Name(kind, key)] = {about, write};
  flush_locked();
}

void Kept::forget(std::string_view kind, const Digest& key) {
  const std::lock_guard lock(mutex_);
  if (asked_) return;
  waiting_.erase(Name(kind, key));
  if (work_) work_->remove(kind, key);
}

void Kept::flush() {
  const std::lock_guard lock(mutex_);
  flush_locked();
}

void Kept::flush_locked() {
  const auto start = Clock::now();
  for (const auto& [name, waiting] : waiting_) save(work_, name, waiting.about, waiting.write);
  waiting_.clear();
  last_ = Clock::now();
  pause_ = std::max(least_pause_, std::chrono::duration<double>(last_ - start) * share_of_time);
}

void Kept::save(std::optional<Store>& store, const Name& name, const Json& about, const Write& write) {
  if (!store) return;
  try {
    ByteWriter out;
    write(out, *store);
    store->save(name.first, name.second, about, out.written());
  } catch (const Error& e) {
    Json fact = Json::object();
    fact.set("text", std::string(e.what()) + "; what is computed from here on is not kept");
    journal_.fact("kept", std::move(fact));
    store.reset();
  }
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "cli/staging.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

constexpr const char* replace_hint = "leave out --no-clobber to replace it";

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

[[noreturn]] void fail(const fs::path& output, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw Error(full ? Code::no_fit : Code::usage, "cannot write " + output.string() + ": " + std::strerror(error),
              full ? "free some space or choose another place" : "check that the directory exists and is writable");
}

void move_into_place(const fs::path& from, const fs::path& to, bool no_clobber) {
  const int moved = no_clobber ? ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE)
                               : ::rename(from.c_str(), to.c_str());
  if (moved == 0) return;
  if (no_clobber && errno == EEXIST) {
    throw Error(Code::usage, to.string() + " exists", replace_hint);
  }
  if (no_clobber && errno == EINVAL) return move_into_place(from, to, false);  // file systems without NOREPLACE
  fail(to, errno);
}

constexpr std::string_view prefix = ".qtool-", pattern = ".qtool-XXXXXX";

int open_folder(const fs::path& folder) {
  return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/// Whether `folder` is still what `open` was opened as.
bool is_there(const fs::path& folder, int open) {
  struct stat path {};
  struct stat file {};
  return ::lstat(folder.c_str(), &path) == 0 && ::fstat(open, &file) == 0 && path.st_dev == file.st_dev &&
         path.st_ino == file.st_ino;
}

/// Folders of this user's jobs that nobody holds: those were killed.
void remove_abandoned(const fs::path& beside) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(beside, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.size() != pattern.size() || !name.starts_with(prefix)) continue;
    const int folder = open_folder(entry.path());
    if (folder < 0) continue;
    struct stat owner {};
    const bool ours = ::fstat(folder, &owner) == 0 && owner.st_uid == ::geteuid();
    if (ours && ::flock(folder, LOCK_EX | LOCK_NB) == 0) fs::remove_all(entry.path(), ignored);
    ::close(folder);
  }
}

}  // namespace

void check_output(const fs::path& input, const fs::path& output, bool no_clobber) {
  std::error_code ignored;
  const fs::file_status status = fs::status(output, ignored);
  if (fs::is_directory(status)) {
    throw Error(Code::usage, "cannot write " + output.string() + ": it is a directory", "give a file name");
  }
  if (!output.has_filename()) throw Error(Code::usage, "the output " + output.string() + " names no file");
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    throw Error(Code::usage, "cannot write " + output.string() + ": it is not a regular file", "give a file name");
  }
  if (fs::exists(status) && fs::equivalent(input, output, ignored)) {
    throw Error(Code::usage, "the output " + output.string() + " is the input file", "give another name with -o");
  }
  if (no_clobber && fs::exists(status)) {
    throw Error(Code::usage, output.string() + " exists", replace_hint);
  }
}

Staging::Staging(fs::path output) : output_(std::move(output)) {
  std::error_code ignored;
  if (fs::is_symlink(output_, ignored)) output_ = fs::weakly_canonical(output_);  // the file behind the link changes
  remove_abandoned(folder_of(output_));
  for (;;) {
    std::string name = (folder_of(output_) / pattern).string();
    if (!::mkdtemp(name.data())) fail(output_, errno);
    folder_ = name;
    held_ = open_folder(folder_);
    // Another job may have taken it for abandoned before it was locked, and removed it. File systems without locks:
    // nobody removes any.
    if (held_ < 0 ? fs::exists(folder_) : ::flock(held_, LOCK_EX) != 0 || is_there(folder_, held_)) return;
    if (held_ >= 0) ::close(held_);
  }
}

Staging::~Staging() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
  if (held_ >= 0) ::close(held_);
}

std::uintmax_t Staging::bytes() const {
  std::uintmax_t sum = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (entry.path() != lock() && entry.path() != manifest()) sum += entry.file_size();
  }
  return sum;
}

void Staging::publish(bool no_clobber) {
  const fs::path folder = folder_of(output_);
  std::set<fs::path> stale, placed;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_data_file_of(output_, entry.path())) stale.insert(entry.path().filename());
  }
  std::vector<fs::path> others, told;  // told: what is said about the model, if it is
  for (const fs::path& path : {lock(), manifest()}) {
    if (fs::exists(path)) told.push_back(path);
  }
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const bool about = std::find(told.begin(), told.end(), entry.path()) != told.end();
    if (entry.path() != file() && !about) others.push_back(entry.path());
  }
  for (const fs::path& other : others) sync_to_disk(other);
  sync_to_disk(file());
  for (const fs::path& path : told) sync_to_disk(path);
  // Weights before the model that names them, under names that the old model does not use unless they are the same.
  for (const fs::path& other : others) {
    move_into_place(other, folder / other.filename(), false);
    if (stale.erase(other.filename()) == 0) placed.insert(other.filename());
  }
  std::error_code ignored;
  try {
    if (no_clobber && fs::exists(output_)) throw Error(Code::usage, output_.string() + " exists", replace_hint);
    for (const fs::path& path : {lock(), manifest()}) fs::remove(folder / path.filename(), ignored);
    move_into_place(file(), output_, no_clobber);
  } catch (...) {
    for (const fs::path& name : placed) fs::remove(folder / name, ignored);
    throw;
  }
  for (const fs::path& path : told) move_into_place(path, folder / path.filename(), false);
  for (const fs::path& name : stale) fs::remove(folder / name, ignored);
  const int dir = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0) {  // the renames must survive a power cut
    ::fsync(dir);
    ::close(dir);
  }
}

}  // namespace qtool

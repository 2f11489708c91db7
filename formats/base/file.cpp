// SPDX-License-Identifier: Apache-2.0
#include "formats/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "formats/base/error.h"

namespace qtool {
namespace {

[[noreturn]] void fail(Code code, const std::string& what, const std::filesystem::path& path, const char* hint) {
  throw Error(code, what + " " + path.string() + ": " + std::strerror(errno), hint);
}

/// Full disk and quota are "does not fit"; everything else about an output path is a matter of usage.
Code output_code() { return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? Code::no_fit : Code::usage; }

}  // namespace

/// A mapping, and its file as long as not too many are open: a process has some thousand at most.
struct MappedFile::Mapping {
  Mapping(std::span<const std::byte> mapped, int file, std::filesystem::path where)
      : bytes(mapped), path(std::move(where)) {
    constexpr int most = 128;
    if (open.fetch_add(1) < most) {
      fd = file;
    } else {
      --open;
      ::close(file);
    }
  }
  ~Mapping() {
    ::munmap(const_cast<std::byte*>(bytes.data()), bytes.size());
    if (fd < 0) return;
    ::close(fd);
    --open;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  static inline std::atomic<int> open = 0;
  std::span<const std::byte> bytes;
  std::filesystem::path path;
  int fd = -1;
};

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(Code::input, "cannot open", path, "check the path and its permissions");
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw Error(Code::input, "cannot read " + path.string() + ": not a regular file", "give the path of a file");
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) {
    ::close(fd);
    return;
  }
  void* p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (p == MAP_FAILED) {
    ::close(fd);
    fail(Code::input, "cannot map", path, "");
  }
  bytes_ = {static_cast<const std::byte*>(p), size};
  mapping_ = std::make_shared<const Mapping>(bytes_, fd, path);
}

void MappedFile::read(std::size_t offset, std::span<std::byte> to) const {
  if (!mapping_ || mapping_->fd < 0) {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    return release(offset, to.size());
  }
  while (!to.empty()) {
    const ssize_t n = ::pread(mapping_->fd, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(Code::input, "cannot read", mapping_->path, "");
    if (n == 0) {
      throw Error(Code::input, mapping_->path.string() + " has become shorter while it was read",
                  "let nothing write to the model while it is quantized");
    }
    to = to.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::size_t>(n);
  }
}

void MappedFile::release(std::size_t offset, std::size_t size) const {
  // Whole pages inside the range; what else lies on the first and the last one may be in use.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = (offset + page - 1) / page * page,
                    end = std::min(offset + size, bytes_.size()) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (bytes.size() > (std::size_t{64} << 20)) {
    throw Error(Code::input, path.string() + " is larger than 64 MiB, too large for a text file");
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

OutputFile::OutputFile(std::filesystem::path target) : target_(std::move(target)) {
  std::error_code ignored;
  if (std::filesystem::is_directory(target_, ignored)) {
    throw Error(Code::usage, "cannot write " + target_.string() + ": it is a directory", "give a file name");
  }
  if (std::filesystem::exists(target_, ignored) && !std::filesystem::is_regular_file(target_, ignored)) {
    // Renaming over /dev/null or a pipe would replace it.
    throw Error(Code::usage, "cannot write " + target_.string() + ": it is not a regular file", "give a file name");
  }
  // The name is unique per process and object, so that two runs never write into each other's file.
  static std::atomic<unsigned> serial{0};
  partial_ = target_;
  partial_ += ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(serial++);
  fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(output_code(), "cannot write", target_, "check that the directory exists and is writable");
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : target_(std::move(other.target_)),
      partial_(std::move(other.partial_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_) {
  other.partial_.clear();
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!partial_.empty()) ::unlink(partial_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(output_code(), "cannot write", target_, "free some space or choose another place");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    size_ += static_cast<std::size_t>(n);
  }
}

const std::filesystem::path& OutputFile::flush() {
  if (::fsync(fd_) != 0 && errno != EINVAL) fail(output_code(), "cannot write", target_, "");
  return partial_;
}

void OutputFile::publish(Sync sync) {
  if (sync == Sync::now) {
    flush();
  } else {
    static_cast<void>(::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE));
  }
  if (::close(std::exchange(fd_, -1)) != 0) fail(output_code(), "cannot write", target_, "");
  if (::rename(partial_.c_str(), target_.c_str()) != 0) fail(output_code(), "cannot write", target_, "");
  partial_.clear();
  if (sync == Sync::later) return;
  const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
  const int dir = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0) {  // the rename itself must survive a power cut
    ::fsync(dir);
    ::close(dir);
  }
}

void sync_to_disk(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(output_code(), "cannot write", path, "");
  const int error = ::fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
  ::close(fd);
  errno = error;
  if (error != 0) fail(output_code(), "cannot write", path, "");
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Bytes behind a path, for readers that map files: a file in memory, gone with the object.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>

namespace qtool::fuzz {

class ScratchPath {
 public:
  explicit ScratchPath(std::span<const std::byte> bytes) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0) throw std::runtime_error("memfd_create failed");
    while (!bytes.empty()) {
      const ssize_t n = write(fd_, bytes.data(), bytes.size());
      if (n <= 0) throw std::runtime_error("write failed");
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }
  ~ScratchPath() { close(fd_); }
  ScratchPath(const ScratchPath&) = delete;
  ScratchPath& operator=(const ScratchPath&) = delete;
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace qtool::fuzz

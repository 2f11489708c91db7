// SPDX-License-Identifier: Apache-2.0
// The memory ceiling: how much memory of its own the process may have. Large blocks that would pass it lie in unlinked
// files beside the output, mapped: the system writes them out and takes their pages back when it needs them, and they
// vanish with the process, however it ends.
//
// A process has one memory, so the ceiling is the one thing here that is no argument: whoever allocates a tensor asks
// for it without knowing the job.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace qtool {

/// "512M", "1.5GiB", "2000000", "4 GB": K, M, G, T with or without "iB" are powers of 1024, with "B" powers of 1000.
/// Error(Code::usage) naming `what` for anything else, or for less than one byte.
std::uint64_t parse_size(const std::string& text, const std::string& what);
/// "900 bytes", "1.5 GiB", "16 MiB".
std::string size_text(std::uint64_t bytes);

struct MemoryLimit {
  std::uint64_t bytes = 0;
  std::string source;  // "/sys/fs/cgroup/.../memory.max"
};
/// The least limit of the control groups (version 1 or 2) that this process is in and of those around them; none where
/// there is none, or it is more than the machine has. `root`: where /proc and /sys are looked for.
std::optional<MemoryLimit> container_limit(const std::filesystem::path& root = "/");

/// Anonymous memory in use now (heap, stacks, buffers of libraries) in bytes: what a ceiling is about. Pages of mapped
/// files do not count; the system takes them back as it pleases.
std::uint64_t anonymous_memory();

/// While it lives, memory_block() keeps to it. Of several that live at the same time (jobs of one process) the lowest
/// holds for all.
class MemoryCeiling {
 public:
  /// `folder`: where files of blocks are made; it must be there while the ceiling lives.
  MemoryCeiling(std::uint64_t bytes, std::filesystem::path folder);
  ~MemoryCeiling();
  MemoryCeiling(const MemoryCeiling&) = delete;
  MemoryCeiling& operator=(const MemoryCeiling&) = delete;
  std::uint64_t bytes() const { return bytes_; }
  const std::filesystem::path& folder() const { return folder_; }
  /// Bytes of all files that were made since no ceiling was alive.
  static std::uint64_t spilled();

 private:
  std::uint64_t bytes_;
  std::filesystem::path folder_;
};

/// Memory for elements, on the heap or in a file of the ceiling's; lasts: it will be kept longer than other blocks, so
/// that the heap is left to those.
enum class Lasting : bool { no, yes };
/// Whether such a block would lie on the heap.
bool heap_has_room(std::size_t size, Lasting lasting);
/// `size` bytes, aligned to 64; zeroed, or as they were found. std::bad_alloc, or Error(Code::no_fit) when the disk is
/// full.
std::shared_ptr<std::byte> memory_block(std::size_t size, bool zeroed, Lasting lasting = Lasting::no);

}  // namespace qtool

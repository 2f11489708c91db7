// SPDX-License-Identifier: Apache-2.0
// Files: input mapped read-only; output written aside and renamed, so that a path holds the old bytes or the
// whole new ones, never half. Every failure is an Error that names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace qtool {

/// A file mapped into memory, read-only. Copies share the mapping; the last one unmaps.
class MappedFile {
 public:
  /// Error(Code::input) when the file is missing, is no regular file or cannot be read.
  explicit MappedFile(const std::filesystem::path&);
  std::span<const std::byte> bytes() const { return bytes_; }
  /// Copies a part without touching its pages, which costs less than mapping them for one look and keeps memory small.
  /// Error(Code::input) when the file has become shorter meanwhile.
  void read(std::size_t offset, std::span<std::byte> to) const;
  /// Gives the memory of a part back: it is read from the file again when it is touched again.
  void release(std::size_t offset, std::size_t size) const;
  /// Keeps the mapping alive.
  std::shared_ptr<const void> owner() const { return mapping_; }

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;  // null: the file is empty
  std::span<const std::byte> bytes_;
};

/// The whole file as text. For small files (recipes, JSON): at most 64 MiB.
std::string read_text(const std::filesystem::path&);

/// When bytes must have reached the disk: before their file appears, or when the caller says sync_to_disk().
enum class Sync : std::uint8_t { now, later };

/// Waits until the bytes of a file would survive a power cut. Error(Code::no_fit or Code::usage) when they do not.
void sync_to_disk(const std::filesystem::path&);

/// A file that appears at its path only on publish(). Without publish the partial file is removed.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path target);
  ~OutputFile();
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  void write(std::span<const std::byte>);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Bytes written so far.
  std::size_t size() const { return size_; }
  /// Where the bytes are until publish(); flushed, for a check that reads the file back.
  const std::filesystem::path& flush();
  /// Another name in the same folder, where it follows from what was written.
  void rename_target(std::string_view file_name) { target_.replace_filename(file_name); }
  /// Flushes to the disk, then renames over the target. Sync::later: the disk is told to begin, nobody waits for it.
  void publish(Sync sync = Sync::now);

 private:
  std::filesystem::path target_, partial_;
  int fd_ = -1;
  std::size_t size_ = 0;
};

}  // namespace qtool

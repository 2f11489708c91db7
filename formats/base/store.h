// SPDX-License-Identifier: Apache-2.0
// Store: results kept in a folder under the hash of everything that they depend on. An entry is a file, named after its
// key and kind, written aside and renamed. It opens with a header (schema, kind, key, lengths, checksum), so that what
// was cut short, damaged or put there by somebody else is seen: such an entry counts as absent, and the next save()
// replaces it. Several processes may share a folder. Entries are native: of one machine kind, little-endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"

namespace qtool {

class Store {
 public:
  /// The folder is made by the first save().
  explicit Store(std::filesystem::path folder) : folder_(std::move(folder)) {}
  const std::filesystem::path& folder() const { return folder_; }

  /// An entry, mapped. `about` says to people what it holds.
  struct Entry {
    Json about;
    std::span<const std::byte> bytes;  // begins at a multiple of 64
    std::shared_ptr<const void> owner;
  };
  std::optional<Entry> load(std::string_view kind, const Digest& key) const;
  /// Whether there is a file for it; whole or not.
  bool has(std::string_view kind, const Digest& key) const;
  /// Error(Code::usage or Code::no_fit) when the folder cannot be written. Nobody waits for the disk: an entry that a
  /// power cut spoils counts as absent.
  void save(std::string_view kind, const Digest& key, const Json& about, std::span<const std::byte>) const;
  void remove(std::string_view kind, const Digest& key) const;

  /// One file of the folder.
  struct Listed {
    std::string file, kind;
    std::uintmax_t bytes = 0;   // of the file
    std::optional<Json> about;  // none: this is no whole entry
  };
  /// All files, by name; empty when there is no folder. Error(Code::usage) when it cannot be read.
  std::vector<Listed> list() const;

 private:
  std::filesystem::path path(std::string_view kind, const Digest& key) const;
  std::filesystem::path folder_;
};

}  // namespace qtool

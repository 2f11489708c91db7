// SPDX-License-Identifier: Apache-2.0
// .npz: a zip file of .npy arrays (numpy.savez, numpy.savez_compressed): members stored or deflated, zip64.
// Sizes are believed only as far as the file can bear them out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/file.h"
#include "formats/ir/tensor.h"

namespace qtool {

class NpzFile {
 public:
  /// Error(Code::input) for anything broken or encrypted, and for a name that is there twice.
  explicit NpzFile(const std::filesystem::path&);
  /// Array names, in file order.
  std::vector<std::string> names() const;
  /// Inflates the array and checks its CRC. Error(Code::input).
  Tensor read(const std::string& name) const;

 private:
  struct Member {
    std::string name;
    std::uint64_t offset = 0, packed = 0, size = 0;  // of the local header; bytes in the file; bytes of the array
    std::uint32_t crc = 0;
    bool deflated = false;
  };
  void read_directory();
  std::string source_;
  MappedFile file_;
  std::vector<Member> members_;
};

/// Writes aside, then renames. Members are stored, their dates fixed: equal arrays give equal bytes.
/// Error(Code::input) when the file would pass 4 GiB.
void write_npz(const std::filesystem::path&, const std::vector<std::pair<std::string, Tensor>>& arrays);

}  // namespace qtool

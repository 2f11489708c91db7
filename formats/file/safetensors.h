// SPDX-License-Identifier: Apache-2.0
// safetensors: tensors by name, mapped (huggingface/safetensors, README "Format"). Every rule of the format is
// checked when the file is opened: lengths, strict JSON, offsets without hole or overlap, shape x type = bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/file.h"
#include "formats/ir/tensor.h"

namespace qtool {

class Safetensors {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    std::uint64_t begin = 0, end = 0;  // bytes within the data part
  };

  /// Error(Code::input) naming file, tensor and rule.
  explicit Safetensors(const std::filesystem::path&);
  /// The same for bytes in memory, which `owner` keeps.
  Safetensors(std::span<const std::byte>, std::string source, std::shared_ptr<const void> owner);

  /// In order of their data.
  const std::vector<Entry>& entries() const { return entries_; }
  const Entry* find(const std::string& name) const;
  /// Mapped. Error(Code::input) for an unknown name.
  Tensor read(const std::string& name) const;
  /// "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  void parse(std::span<const std::byte>);
  std::string source_;
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> data_;
  std::vector<Entry> entries_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// The bytes of a file with these tensors, ordered as the reference writer does: wide types first, then by name.
/// The same input always gives the same bytes. Error(Code::input) for a type that the format lacks.
std::string safetensors_bytes(const std::vector<std::pair<std::string, Tensor>>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace qtool

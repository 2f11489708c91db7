// SPDX-License-Identifier: Apache-2.0
// GGUF: key-values and tensors by name, the container of llama.cpp (ggml, docs/gguf.md; gguf.md section 1). Versions 2
// and 3, little-endian. Every rule of the format is checked when a file is opened: lengths, names, kinds, alignment,
// offsets without hole or overlap, shape x type = bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/base/file.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// How ggml stores elements: blocks of so many along the last axis, each in so many bytes.
struct GgmlType {
  std::uint32_t number;
  std::string_view name;
  std::int64_t block, bytes;
};
const GgmlType* find_ggml_type(std::uint32_t number);
const GgmlType* find_ggml_type(std::string_view name);

/// A value, or a list of values of one kind.
struct GgufValue {
  enum class Kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, list, u64, i64, f64 };
  Kind kind = Kind::u32;  // never list
  bool is_list = false;
  /// Unsigned ones and booleans, signed ones, floats, texts; one item where this is no list.
  std::variant<std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>
      items;

  static GgufValue text(std::string);
  static GgufValue texts(std::vector<std::string>);
  static GgufValue u32(std::uint32_t);
  /// Null where this is something else.
  const std::string* as_text() const;
  const std::vector<std::string>* as_texts() const;
  std::optional<std::uint64_t> as_unsigned() const;
};

struct GgufTensor {
  std::string name;
  Shape shape;  // the last axis runs fastest: ggml's `ne` backwards
  const GgmlType* type = nullptr;
  std::span<const std::byte> data;
};
/// Bytes of such a tensor. Requires: the last axis is whole blocks.
std::uint64_t gguf_bytes(const GgufTensor&);

class Gguf {
 public:
  static constexpr std::size_t longest_name = 63;  // bytes of the name of a tensor
  using Values = std::vector<std::pair<std::string, GgufValue>>;

  /// Error(Code::input) naming file, key or tensor, and rule.
  explicit Gguf(const std::filesystem::path&);
  /// The same for bytes in memory, which `owner` keeps.
  Gguf(std::span<const std::byte>, std::string source, std::shared_ptr<const void> owner);
  static bool is_one(std::span<const std::byte>);

  /// In the order of the file.
  const Values& values() const { return values_; }
  const GgufValue* find(std::string_view key) const;
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  std::uint64_t alignment() const { return alignment_; }

 private:
  void parse(std::span<const std::byte>);

  std::string source_;
  std::shared_ptr<const void> owner_;
  Values values_;
  std::vector<GgufTensor> tensors_;
  std::uint64_t alignment_ = 32;
};

/// Writes version 3 with these, in this order, piece by piece. `general.alignment`, where it is among the values, is
/// followed. Error(Code::input) for what a reader would refuse: names that are empty, too long or there twice, more
/// than four axes, a last axis that is not whole blocks. Requires: as much data as shape and type say.
void write_gguf(const Gguf::Values&, const std::vector<GgufTensor>&,
                const std::function<void(std::string_view)>& write);

}  // namespace qtool

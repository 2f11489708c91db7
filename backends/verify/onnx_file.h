// SPDX-License-Identifier: Apache-2.0
// The parts of an ONNX file that a check of quantized models looks at, read from the protobuf wire format with code of
// its own: a mistake in the writer must not be shared by its judge. Field numbers are those of onnx.proto. Views point
// into the mapped file, which FileView keeps alive. Every byte is hostile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qtool::verify {

using Bytes = std::span<const std::byte>;

/// One field of a message: the value of a varint or fixed field, or the bytes of a string, message or packed list.
struct Field {
  std::uint32_t number = 0, wire = 0;
  std::uint64_t value = 0;
  Bytes bytes;
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
};

/// Fields of a message in order. next() is empty at the end; Error(Code::verification) for malformed bytes.
class Wire {
 public:
  explicit Wire(Bytes bytes) : rest_(bytes) {}
  std::optional<Field> next();

 private:
  std::uint64_t varint();
  Bytes rest_;
};

/// TensorProto.DataType, as far as it is looked at.
enum Type : std::int32_t { f32 = 1, u8 = 2, i8 = 3, u16 = 4, i16 = 5, i32 = 6, i64 = 7, f16 = 10, bf16 = 16 };
/// Bits of an element; 0: strings and types unknown here.
int bits_of(std::int32_t type);

struct TensorView {
  std::string_view name;
  std::vector<std::int64_t> dims;
  std::int32_t type = 0;
  bool raw = false;             // the elements are `bytes`: raw_data or external data, little-endian, packed
  bool external = false;        // looked up in another file
  Bytes bytes;                  // else they are in `numbers`
  std::vector<double> numbers;  // float_data, int32_data or int64_data
  std::int64_t count() const;   // Error on overflow or a negative extent
  /// Element i of a numeric tensor of 8 bits or more.
  double at(std::int64_t i) const;
};

struct NodeView {
  std::string_view name, op, domain;
  std::vector<std::string_view> inputs, outputs;
  std::map<std::string_view, std::int64_t> ints;  // attributes of type int
  std::string label() const;
};

struct GraphView {
  std::vector<NodeView> nodes;
  std::map<std::string_view, TensorView> constants;  // initializers and Constant nodes
  std::map<std::string_view, std::size_t> producer;  // value to node
  std::vector<GraphView> bodies;
};

struct FileView {
  std::int64_t ir = 0;
  std::map<std::string, std::int64_t> opsets;
  GraphView graph;
  std::vector<std::shared_ptr<const void>> mapped;
};

/// Error(Code::verification) naming tensor or node for anything malformed.
FileView read_file(const std::filesystem::path&);

}  // namespace qtool::verify

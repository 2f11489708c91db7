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
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/base/file.h"

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
enum Type : std::int32_t {
  f32 = 1,
  u8 = 2,
  i8 = 3,
  u16 = 4,
  i16 = 5,
  i32 = 6,
  i64 = 7,
  f16 = 10,
  f64 = 11,
  bf16 = 16,
  f8_first = 17,  // the four float8 types
  f8_last = 20,
  u4 = 21,
  i4 = 22,
  f4 = 23,
  e8m0 = 24,
  u2 = 25,
  i2 = 26
};
/// Bits of an element; 0: strings and types unknown here.
int bits_of(std::int32_t type);
std::string name_of(std::int32_t type);
/// float32, float16, bfloat16 and float64.
bool is_real(std::int32_t type);
/// Integers of 2 to 16 bits: what codes are held in.
bool is_code(std::int32_t type);
/// Lowest and highest number of such a type.
std::pair<int, int> range_of(std::int32_t type);

struct TensorView {
  std::string_view name;
  std::vector<std::int64_t> dims;
  std::int32_t type = 0;
  bool raw = false;             // the elements are `bytes`: raw_data or external data, little-endian, packed
  bool external = false;        // looked up in another file
  Bytes bytes;                  // else they are in `numbers`
  std::vector<double> numbers;  // float_data, int32_data or int64_data
  std::int64_t count() const;   // Error on overflow or a negative extent
  /// Element i of a numeric tensor. Error for types that hold no plain numbers.
  double at(std::int64_t i) const;
  /// `out.size()` elements from `first` on. Integers of up to 16 bits and int32.
  void read(std::int64_t first, std::span<std::int32_t> out) const;
  /// The same of float32, float16, bfloat16 and float64.
  void read(std::int64_t first, std::span<float> out) const;
};

struct NodeView {
  std::string_view name, op, domain;
  std::vector<std::string_view> inputs, outputs;
  std::map<std::string_view, std::int64_t> ints;  // attributes by type
  std::map<std::string_view, float> floats;
  std::map<std::string_view, std::string_view> texts;
  std::map<std::string_view, std::vector<std::int64_t>> lists;
  bool is(std::string_view what, std::string_view of = {}) const { return op == what && domain == of; }
  std::string_view input(std::size_t i) const { return i < inputs.size() ? inputs[i] : std::string_view{}; }
  std::int64_t integer(std::string_view attribute, std::int64_t otherwise) const;
  float number(std::string_view attribute, float otherwise) const;
  /// Its name, or that of its first output.
  std::string_view who() const { return !name.empty() || outputs.empty() ? name : outputs[0]; }
  /// node "conv1" (Conv)
  std::string label() const;
};

struct Declared {
  std::string_view name;
  std::int32_t type = 0;  // element type; 0: not told
};

struct GraphView {
  std::vector<NodeView> nodes;
  std::map<std::string_view, TensorView> constants;  // initializers and Constant nodes
  std::map<std::string_view, std::size_t> producer;  // value to node
  std::set<std::string_view> sparse;                 // names of sparse initializers
  std::vector<Declared> inputs, outputs;
  std::vector<GraphView> bodies;
};

struct FileView {
  std::int64_t ir = 0;
  std::map<std::string, std::int64_t> opsets;
  std::map<std::string_view, std::string_view> metadata;
  std::vector<std::string_view> functions;  // names of local ones; what they compute is not read
  GraphView graph;
  std::vector<MappedFile> files;                  // what views look at
  std::vector<std::shared_ptr<const void>> held;  // likewise
  /// Gives the memory of what was read back: it is read from the files again where it is looked at again.
  void let_go() const {
    for (const MappedFile& file : files) file.release(0, file.bytes().size());
  }
};

/// Error(Code::verification) naming tensor or node for anything malformed.
FileView read_file(const std::filesystem::path&);

}  // namespace qtool::verify

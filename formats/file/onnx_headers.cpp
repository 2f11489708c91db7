// SPDX-License-Identifier: Apache-2.0
// A model and the elements of its large weights apart: the message is walked on its wire format, and what lies in those
// weights is stepped over, so that the pages of a mapped file that hold them are not touched.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <optional>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"
#include "formats/file/reader.h"

namespace qtool::onnx_file {
namespace {

enum class Wire : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// One field as it lies in a message.
struct Field {
  std::uint64_t number = 0;
  Wire wire = Wire::varint;
  std::span<const std::byte> whole, content;  // with tag and length; of Wire::bytes: without
};

/// The fields of a message one by one.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> message) : rest_(message) {}
  /// Nothing at the end, and where the bytes are no message: done() tells which.
  std::optional<Field> next() {
    const auto start = rest_;
    auto field = parse();
    if (!field) {
      rest_ = start;
      return std::nullopt;
    }
    field->whole = start.first(start.size() - rest_.size());
    return field;
  }
  bool done() const { return rest_.empty(); }

 private:
  std::optional<Field> parse() {
    Field field;
    const auto tag = varint();
    if (!tag) return std::nullopt;
    field.number = *tag >> 3;
    field.wire = static_cast<Wire>(*tag & 7);
    std::uint64_t size = 0;
    switch (field.wire) {
      case Wire::varint:
        if (!varint()) return std::nullopt;
        break;
      case Wire::fixed64: size = 8; break;
      case Wire::fixed32: size = 4; break;
      case Wire::bytes: {
        const auto length = varint();
        if (!length) return std::nullopt;
        size = *length;
        break;
      }
      default: return std::nullopt;
    }
    if (size > rest_.size()) return std::nullopt;
    field.content = rest_.first(static_cast<std::size_t>(size));
    rest_ = rest_.subspan(static_cast<std::size_t>(size));
    return field;
  }

  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < std::min<std::size_t>(10, rest_.size()); ++i) {
      const auto b = std::to_integer<std::uint64_t>(rest_[i]);
      value |= (b & 0x7f) << (7 * i);
      if ((b & 0x80) != 0) continue;
      rest_ = rest_.subspan(i + 1);
      return value;
    }
    return std::nullopt;
  }
  std::span<const std::byte> rest_;
};

void append(std::string& out, std::span<const std::byte> bytes) {
  out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void append_field(std::string& out, int number, std::string_view content) {
  const auto varint = [&](std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
  };
  varint(static_cast<std::uint64_t>(number) << 3 | static_cast<std::uint64_t>(Wire::bytes));
  varint(content.size());
  out += content;
}

/// Fields that hold elements as the bytes that they are in memory.
bool holds_elements(const Field& field, DType dtype) {
  if (field.wire != Wire::bytes) return false;
  return field.number == onnx::TensorProto::kRawDataFieldNumber ||
         (field.number == onnx::TensorProto::kFloatDataFieldNumber && dtype == DType::f32) ||
         (field.number == onnx::TensorProto::kDoubleDataFieldNumber && dtype == DType::f64);
}

/// The message of a tensor without its elements, and those.
struct Parted {
  std::string header;
  std::span<const std::byte> elements;
};

/// Nothing where `wanted(field, dtype, shape)` does not want the elements apart, or they are not what the header says:
/// whoever reads the whole then says so.
template <class F>
std::optional<Parted> parted(std::span<const std::byte> tensor, std::size_t least_bytes, const F& wanted) {
  if (tensor.size() <= least_bytes) return std::nullopt;
  std::string header;
  std::optional<Field> largest;
  Fields fields(tensor);
  while (const auto field = fields.next()) {
    const bool larger = field->wire == Wire::bytes && (!largest || field->content.size() > largest->content.size());
    if (!larger) {
      append(header, field->whole);
      continue;
    }
    if (largest) append(header, largest->whole);
    largest = field;
    if (header.size() > tensor.size() / 2) return std::nullopt;
  }
  if (!fields.done() || !largest) return std::nullopt;
  onnx::TensorProto proto;
  if (!proto.ParseFromString(header)) return std::nullopt;
  const auto dtype = dtype_of_onnx(proto.data_type());
  if (!dtype || proto.data_location() == onnx::TensorProto::EXTERNAL || proto.has_raw_data()) return std::nullopt;
  std::uint64_t elements = 1;
  for (const std::int64_t extent : proto.dims()) {
    const auto n = static_cast<std::uint64_t>(extent);
    if (extent <= 0 || elements > tensor.size() * 8 / n) return std::nullopt;
    elements *= n;
  }
  const Shape shape(proto.dims().begin(), proto.dims().end());
  if (!wanted(*largest, *dtype, shape)) return std::nullopt;
  if (byte_size(*dtype, static_cast<std::int64_t>(elements)) != largest->content.size()) return std::nullopt;
  return Parted{std::move(header), largest->content};
}

/// A message whose fields `number` are replaced by what `change` makes of them. Nothing when it is no message.
template <class F>
std::optional<std::string> with_changed(std::span<const std::byte> message, int number, const F& change) {
  std::string out;
  Fields fields(message);
  while (const auto field = fields.next()) {
    if (field->number != static_cast<std::uint64_t>(number) || field->wire != Wire::bytes) {
      append(out, field->whole);
      continue;
    }
    if (const std::optional<std::string> content = change(field->content)) {
      append_field(out, number, *content);
    } else {
      append(out, field->whole);
    }
  }
  return fields.done() ? std::optional(std::move(out)) : std::nullopt;
}

}  // namespace

std::size_t least_bytes_of(const Headers& headers) { return static_cast<std::size_t>(headers.most_elements); }

bool leaves_out(const Headers& headers, DType dtype, const Shape& shape) {
  constexpr std::int64_t longest_vector = std::int64_t{1} << 20;
  constexpr std::size_t most_integers = std::size_t{4} << 20;
  const std::int64_t count = element_count(shape);
  if (is_integer(dtype) || dtype == DType::boolean || dtype == DType::string) {
    return dtype != DType::string && byte_size(dtype, count) > most_integers;
  }
  const bool vector = std::count_if(shape.begin(), shape.end(), [](auto n) { return n > 1; }) <= 1;
  return count > (vector ? longest_vector : headers.most_elements);
}

namespace {

/// parse() with `header(tensor)` in place of the initializers for which it is not empty. False, with the whole message
/// parsed, where that is none to walk: whoever parses it says what is wrong, or knows more of it.
template <class F>
bool parse_with(const MappedFile& file, const std::string& source, onnx::ModelProto& model, const F& header) {
  bool walked = file.bytes().size() <= max_message_bytes;
  const auto short_tensor = [&](std::span<const std::byte> tensor) {
    auto shortened = header(tensor);
    // Looking at its head may have fetched megabytes around it.
    if (shortened) file.release(0, file.bytes().size());
    return shortened;
  };
  const auto short_graph = [&](std::span<const std::byte> graph) {
    auto changed = with_changed(graph, onnx::GraphProto::kInitializerFieldNumber, short_tensor);
    walked = walked && changed;
    return changed;
  };
  std::optional<std::string> message;
  if (walked) message = with_changed(file.bytes(), onnx::ModelProto::kGraphFieldNumber, short_graph);
  walked = walked && message;
  if (walked) {
    parse(std::as_bytes(std::span(message->data(), message->size())), source, model);
  } else {
    parse(file, source, model);
  }
  return walked;
}

}  // namespace

void parse_headers(const MappedFile& file, const Headers& headers, const std::string& source, onnx::ModelProto& model) {
  const auto wanted = [&](const Field& field, DType dtype, const Shape& shape) {
    return holds_elements(field, dtype) && leaves_out(headers, dtype, shape);
  };
  parse_with(file, source, model, [&](std::span<const std::byte> tensor) -> std::optional<std::string> {
    auto found = parted(tensor, least_bytes_of(headers), wanted);
    return found ? std::optional(std::move(found->header)) : std::nullopt;
  });
}

Elements parse_apart(const MappedFile& file, std::size_t least_bytes, const std::string& source,
                     onnx::ModelProto& model) {
  const auto wanted = [](const Field& field, DType dtype, const Shape&) {
    return field.number == onnx::TensorProto::kRawDataFieldNumber && dtype != DType::string;
  };
  std::vector<std::span<const std::byte>> elements;  // by initializer; empty: in its message
  const bool walked = parse_with(file, source, model, [&](std::span<const std::byte> tensor) {
    auto found = parted(tensor, least_bytes, wanted);
    elements.push_back(found ? found->elements : std::span<const std::byte>());
    return found ? std::optional(std::move(found->header)) : std::nullopt;
  });
  if (!walked) return {};
  const auto& initializers = model.graph().initializer();
  QTOOL_ENSURE(static_cast<std::size_t>(initializers.size()) == elements.size(), "each initializer was seen once");
  Elements apart;
  for (int i = 0; i < initializers.size(); ++i) {
    const auto bytes = elements[static_cast<std::size_t>(i)];
    if (!bytes.empty()) apart.emplace(&initializers[i], bytes);
  }
  return apart;
}

}  // namespace qtool::onnx_file

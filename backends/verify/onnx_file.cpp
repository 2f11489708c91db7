// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/onnx_file.h"

#include <bit>
#include <charconv>
#include <cstring>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace qtool::verify {
namespace {

constexpr int deepest_body = 64;

[[noreturn]] void broken(const std::string& what) {
  throw Error(Code::verification, "the written file is broken: " + what);
}

std::string quoted(std::string_view name) { return "\"" + std::string(name) + "\""; }

/// A repeated integer field: one value, or a packed list of varints.
void repeated_int(const Field& field, std::vector<std::int64_t>& out) {
  if (field.wire == 0) return out.push_back(static_cast<std::int64_t>(field.value));
  for (Bytes rest = field.bytes; !rest.empty();) {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (rest.empty() || shift > 63) broken("a packed number is cut off");
      const auto byte = static_cast<std::uint64_t>(rest[0]);
      rest = rest.subspan(1);
      value |= (byte & 127) << shift;
      if ((byte & 128) == 0) break;
    }
    out.push_back(static_cast<std::int64_t>(value));
  }
}

void floats(const Field& field, TensorView& t) {
  const auto push = [&](std::uint32_t bits) { t.numbers.push_back(static_cast<double>(std::bit_cast<float>(bits))); };
  if (field.wire == 5) return push(static_cast<std::uint32_t>(field.value));
  for (std::size_t i = 0; i + 4 <= field.bytes.size(); i += 4) {
    std::uint32_t bits;
    std::memcpy(&bits, field.bytes.data() + i, 4);
    push(bits);
  }
}

void doubles(const Field& field, TensorView& t) {
  if (field.wire == 1) return t.numbers.push_back(std::bit_cast<double>(field.value));
  for (std::size_t i = 0; i + 8 <= field.bytes.size(); i += 8) {
    double value;
    std::memcpy(&value, field.bytes.data() + i, 8);
    t.numbers.push_back(value);
  }
}

/// Fields 1 and 2 of a message as text: key and value, or just a name.
std::pair<std::string_view, std::string_view> texts(Bytes bytes) {
  std::pair<std::string_view, std::string_view> found;
  Wire wire(bytes);
  while (const auto field = wire.next()) {
    if (field->number == 1) found.first = field->text();
    if (field->number == 2) found.second = field->text();
  }
  return found;
}

class Reader {
 public:
  Reader(const std::filesystem::path& path, const MappedFile& file) : folder_(path.parent_path()), file_(file) {
    held.push_back(names_);
  }

  GraphView graph(Bytes bytes, int depth) {
    if (depth > deepest_body) broken("graphs are nested too deeply");
    GraphView g;
    Wire wire(bytes);
    while (const auto field = wire.next()) {
      if (field->number == 1) node(field->bytes, g, depth);
      if (field->number == 11) g.inputs.push_back(declared(field->bytes));
      if (field->number == 12) g.outputs.push_back(declared(field->bytes));
      if (field->number == 15) sparse(field->bytes, g);
      if (field->number == 5) {
        TensorView t = tensor(field->bytes);
        // Looking at its head may have fetched many pages around it.
        constexpr std::size_t large = 1 << 16;
        if (field->bytes.size() > large) file_.release(0, file_.bytes().size());
        if (!g.constants.emplace(t.name, t).second) broken("initializer " + quoted(t.name) + " occurs twice");
      }
    }
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      for (const std::string_view v : g.nodes[i].outputs) {
        if (!v.empty() && !g.producer.emplace(v, i).second) broken("value " + quoted(v) + " is produced twice");
      }
    }
    return g;
  }

  std::vector<MappedFile> files;
  std::vector<std::shared_ptr<const void>> held;

 private:
  /// Names are compared all the time: copies, so that no page is fetched that lies between weights.
  std::string_view name_in(const Field& field) { return *names_->emplace(field.text()).first; }

  void node(Bytes bytes, GraphView& g, int depth) {
    NodeView n;
    Wire wire(bytes);
    while (const auto field = wire.next()) {
      switch (field->number) {
        case 1: n.inputs.push_back(name_in(*field)); break;
        case 2: n.outputs.push_back(name_in(*field)); break;
        case 3: n.name = name_in(*field); break;
        case 4: n.op = name_in(*field); break;
        case 7: n.domain = field->text() == "ai.onnx" ? std::string_view{} : name_in(*field); break;
        default: break;
      }
    }
    Wire again(bytes);
    while (const auto field = again.next()) {
      if (field->number == 5) attribute(field->bytes, n, g, depth);
    }
    g.nodes.push_back(std::move(n));
  }

  /// ValueInfoProto: name, type.tensor_type.elem_type.
  Declared declared(Bytes bytes) {
    Declared d;
    Wire wire(bytes);
    while (const auto field = wire.next()) {
      if (field->number == 1) d.name = name_in(*field);
      if (field->number != 2) continue;
      Wire type(field->bytes);
      while (const auto kind = type.next()) {
        if (kind->number != 1) continue;
        Wire tensor(kind->bytes);
        while (const auto part = tensor.next()) {
          if (part->number == 1) d.type = static_cast<std::int32_t>(part->value);
        }
      }
    }
    return d;
  }

  /// SparseTensorProto: its values carry the name.
  void sparse(Bytes bytes, GraphView& g) {
    Wire wire(bytes);
    while (const auto field = wire.next()) {
      if (field->number != 1) continue;
      Wire values(field->bytes);
      while (const auto part = values.next()) {
        if (part->number == 8) g.sparse.insert(name_in(*part));
      }
    }
  }

  void attribute(Bytes bytes, NodeView& n, GraphView& g, int depth) {
    const std::string_view name = texts(bytes).first;
    Wire wire(bytes);
    while (const auto field = wire.next()) {
      if (field->number == 2 && field->wire == 5) {
        n.floats[name] = std::bit_cast<float>(static_cast<std::uint32_t>(field->value));
      }
      if (field->number == 3 && field->wire == 0) n.ints[name] = static_cast<std::int64_t>(field->value);
      if (field->number == 4) n.texts[name] = field->text();
      if (field->number == 8) repeated_int(*field, n.lists[name]);
      if (field->number == 6 || field->number == 11) g.bodies.push_back(graph(field->bytes, depth + 1));
      if (field->number == 5 && n.op == "Constant" && name == "value" && !n.outputs.empty()) {
        TensorView t = tensor(field->bytes);
        t.name = n.outputs[0];
        g.constants[t.name] = std::move(t);
      }
    }
  }

  TensorView tensor(Bytes bytes) {
    TensorView t;
    std::map<std::string_view, std::string_view> external;
    std::vector<std::int64_t> numbers;
    Wire wire(bytes);
    while (const auto field = wire.next()) {
      switch (field->number) {
        case 1: repeated_int(*field, t.dims); break;
        case 2: t.type = static_cast<std::int32_t>(field->value); break;
        case 4: floats(*field, t); break;
        case 5:
        case 7:
        case 11: repeated_int(*field, numbers); break;
        case 10: doubles(*field, t); break;
        case 8: t.name = name_in(*field); break;
        case 9:
          t.bytes = field->bytes;
          t.raw = true;
          break;
        case 13: external.insert(texts(field->bytes)); break;
        case 14: t.external = field->value == 1; break;
        default: break;
      }
    }
    for (const std::int64_t v : numbers) t.numbers.push_back(static_cast<double>(v));
    if (t.external) look_up(t, external);
    check_size(t);
    return t;
  }

  // onnx-quantized: relative, inside the folder, decimal numbers, exact length.
  void look_up(TensorView& t, const std::map<std::string_view, std::string_view>& external) {
    const std::string who = "tensor " + quoted(t.name);
    const auto number = [&](std::string_view key) -> std::uint64_t {
      const auto found = external.find(key);
      if (found == external.end()) return 0;
      const char* end = found->second.data() + found->second.size();
      std::uint64_t value = 0;
      const auto result = std::from_chars(found->second.data(), end, value);
      if (result.ec != std::errc() || result.ptr != end) broken(who + " has a bad " + std::string(key));
      return value;
    };
    const auto location = external.find("location");
    if (location == external.end()) broken(who + " is external without a location");
    const std::filesystem::path relative(location->second);
    if (relative.is_absolute()) broken(who + " has an absolute location");
    for (const auto& part : relative) {
      if (part == "..") broken(who + " leaves the folder of the model");
    }
    const auto [found, first] = files_.try_emplace(relative.string(), folder_ / relative);
    const MappedFile& file = found->second;
    if (first) files.push_back(file);
    const std::uint64_t offset = number("offset"), length = number("length"), size = file.bytes().size();
    if (offset > size || length > size - offset) broken(who + " reaches beyond its file");
    t.bytes = file.bytes().subspan(offset, external.contains("length") ? length : size - offset);
    t.raw = true;
  }

  static void check_size(const TensorView& t) {
    const auto bits = static_cast<std::uint64_t>(bits_of(t.type));
    constexpr std::int32_t complex64 = 14, complex128 = 15;
    if (bits == 0 || t.type == complex64 || t.type == complex128) return;
    const auto count = static_cast<std::uint64_t>(t.count());
    if (!t.raw) {
      const std::uint64_t each = bits < 8 ? 8 / bits : 1;
      if (t.numbers.size() * each < count) {
        broken("tensor " + quoted(t.name) + " has " + std::to_string(t.numbers.size()) + " numbers, its shape needs " +
               std::to_string(count));
      }
      return;
    }
    const std::uint64_t needed = (count * bits + 7) / 8;
    if (t.bytes.size() != needed) {
      broken("tensor " + quoted(t.name) + " has " + std::to_string(t.bytes.size()) + " bytes, its shape needs " +
             std::to_string(needed));
    }
  }

  std::filesystem::path folder_;
  MappedFile file_;
  std::map<std::string, MappedFile> files_;
  std::shared_ptr<std::set<std::string, std::less<>>> names_ = std::make_shared<std::set<std::string, std::less<>>>();
};

}  // namespace

FileView read_file(const std::filesystem::path& path) {
  FileView file;
  const MappedFile bytes(path);
  file.files.push_back(bytes);
  Reader reader(path, bytes);
  bool graph = false;
  Wire wire(bytes.bytes());
  while (const auto field = wire.next()) {
    if (field->number == 1) file.ir = static_cast<std::int64_t>(field->value);
    if (field->number == 14) file.metadata.insert(texts(field->bytes));
    if (field->number == 25) {
      Wire function(field->bytes);
      while (const auto part = function.next()) {
        if (part->number == 1) file.functions.push_back(part->text());
      }
    }
    if (field->number == 7) {
      file.graph = reader.graph(field->bytes, 0);
      graph = true;
    }
    if (field->number == 8) {
      std::string domain;
      std::int64_t version = 0;
      Wire import(field->bytes);
      while (const auto part = import.next()) {
        if (part->number == 1) domain = part->text();
        if (part->number == 2) version = static_cast<std::int64_t>(part->value);
      }
      file.opsets[domain == "ai.onnx" ? "" : domain] = version;
    }
  }
  if (!graph) broken("it has no graph");
  file.files.insert(file.files.end(), reader.files.begin(), reader.files.end());
  file.held = reader.held;
  return file;
}

}  // namespace qtool::verify

// SPDX-License-Identifier: Apache-2.0
#include "formats/file/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "formats/base/error.h"
#include "formats/base/json.h"

namespace qtool {
namespace {

constexpr std::uint64_t header_limit = 100'000'000;  // bytes; the limit of the reference reader

// In the order of the reference's enum, low to high; a writer sorts by it, descending.
struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr TypeName type_names[] = {{"BOOL", DType::boolean},
                                   {"F4", DType::f4e2m1},
                                   {"F6_E2M3", DType::f6e2m3},
                                   {"F6_E3M2", DType::f6e3m2},
                                   {"U8", DType::u8},
                                   {"I8", DType::i8},
                                   {"F8_E5M2", DType::f8e5m2},
                                   {"F8_E4M3", DType::f8e4m3fn},
                                   {"F8_E8M0", DType::f8e8m0},
                                   {"F8_E4M3FNUZ", DType::f8e4m3fnuz},
                                   {"F8_E5M2FNUZ", DType::f8e5m2fnuz},
                                   {"I16", DType::i16},
                                   {"U16", DType::u16},
                                   {"F16", DType::f16},
                                   {"BF16", DType::bf16},
                                   {"I32", DType::i32},
                                   {"U32", DType::u32},
                                   {"F32", DType::f32},
                                   {"C64", DType::c64},
                                   {"F64", DType::f64},
                                   {"I64", DType::i64},
                                   {"U64", DType::u64}};

std::uint64_t non_negative(const Json& j, const std::string& where) {
  if (!j.is_integer() || j.as_integer() < 0) {
    throw Error(Code::input, where + ": shapes and offsets are non-negative integers");
  }
  return static_cast<std::uint64_t>(j.as_integer());
}

Safetensors::Entry entry_of(const std::string& name, const Json& j, const std::string& where) {
  const Json *dtype = j.find("dtype"), *shape = j.find("shape"), *offsets = j.find("data_offsets");
  if (!dtype || !shape || !offsets || j.as_object().size() != 3 || !dtype->is_string() || !shape->is_array() ||
      !offsets->is_array() || offsets->as_array().size() != 2) {
    throw Error(Code::input, where + ": an entry is exactly dtype, shape and data_offsets");
  }
  const auto* known = std::find_if(std::begin(type_names), std::end(type_names),
                                   [&](const TypeName& t) { return t.name == dtype->as_string(); });
  if (known == std::end(type_names)) throw Error(Code::input, where + ": unknown type \"" + dtype->as_string() + "\"");
  Safetensors::Entry e;
  e.name = name;
  e.dtype = known->dtype;
  for (const Json& d : shape->as_array()) e.shape.push_back(static_cast<std::int64_t>(non_negative(d, where)));
  e.begin = non_negative(offsets->as_array()[0], where);
  e.end = non_negative(offsets->as_array()[1], where);
  std::int64_t count = 0;
  try {
    count = element_count(e.shape);
  } catch (const Error& error) {
    throw Error(Code::input, where + ": " + error.what());
  }
  const auto bits = static_cast<std::uint64_t>(bit_width(e.dtype));
  const auto n = static_cast<std::uint64_t>(count);
  if (n > std::numeric_limits<std::uint64_t>::max() / bits || n * bits % 8 != 0) {
    throw Error(Code::input, where + ": " + to_string(e.shape) + " elements of " + std::to_string(bits) +
                                 " bits do not fill whole bytes");
  }
  if (e.end < e.begin || e.end - e.begin != n * bits / 8) {
    throw Error(Code::input, where + ": data_offsets [" + std::to_string(e.begin) + ", " + std::to_string(e.end) +
                                 "], shape x type needs " + std::to_string(n * bits / 8) + " bytes");
  }
  return e;
}

}  // namespace

Safetensors::Safetensors(const std::filesystem::path& path) : source_(path.string()) {
  const MappedFile file(path);
  owner_ = file.owner();
  parse(file.bytes());
}

Safetensors::Safetensors(std::span<const std::byte> bytes, std::string source, std::shared_ptr<const void> owner)
    : source_(std::move(source)), owner_(std::move(owner)) {
  parse(bytes);
}

void Safetensors::parse(std::span<const std::byte> bytes) {
  const auto refuse = [&](const std::string& what) { return Error(Code::input, source_ + ": " + what); };
  if (bytes.size() < 8) throw refuse("too short for a safetensors file");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > header_limit || length > bytes.size() - 8) {
    throw refuse("the safetensors header is said to be " + std::to_string(length) + " bytes long, the file has " +
                 std::to_string(bytes.size()));
  }
  data_ = bytes.subspan(8 + static_cast<std::size_t>(length));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
  const Json header = Json::parse(text, source_);
  if (!header.is_object()) throw refuse("the safetensors header is no JSON object");
  for (const auto& [name, value] : header.as_object()) {
    const std::string where = source_ + ": " + name;
    if (name == "__metadata__") {
      if (!value.is_object()) throw Error(Code::input, where + ": must be an object of strings");
      for (const auto& [key, word] : value.as_object()) {
        if (!word.is_string()) throw Error(Code::input, where + ": must be an object of strings");
        metadata_[key] = word.as_string();
      }
      continue;
    }
    if (name.find('\0') != std::string::npos) throw refuse("a tensor name contains a NUL");
    entries_.push_back(entry_of(name, value, where));
  }
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  for (const Entry& e : entries_) {
    if (e.begin != at) {
      throw Error(Code::input, source_ + ": " + e.name + ": data begin at " + std::to_string(e.begin) + " instead of " +
                                   std::to_string(at) + " (a hole, or tensors that overlap)");
    }
    at = e.end;
  }
  if (at != data_.size()) {
    throw refuse("the tensors end at byte " + std::to_string(at) + " of " + std::to_string(data_.size()));
  }
  for (std::size_t i = 0; i < entries_.size(); ++i) index_[entries_[i].name] = i;
}

const Safetensors::Entry* Safetensors::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

Tensor Safetensors::read(const std::string& name) const {
  const Entry* e = find(name);
  if (e == nullptr) throw Error(Code::input, source_ + ": there is no tensor \"" + name + "\"");
  const auto bytes = data_.subspan(static_cast<std::size_t>(e->begin), static_cast<std::size_t>(e->end - e->begin));
  return Tensor(e->dtype, e->shape, Buffer::view(bytes, owner_));
}

std::string safetensors_bytes(const std::vector<std::pair<std::string, Tensor>>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  struct Row {
    std::ptrdiff_t rank;
    const std::pair<std::string, Tensor>* tensor;
  };
  std::vector<Row> rows;
  for (const auto& t : tensors) {
    const auto* known = std::find_if(std::begin(type_names), std::end(type_names),
                                     [&](const TypeName& n) { return n.dtype == t.second.dtype(); });
    if (known == std::end(type_names) || t.second.count() * bit_width(known->dtype) % 8 != 0) {
      throw Error(Code::input, "safetensors cannot hold \"" + t.first + "\" of type " +
                                   std::string(name_of(t.second.dtype())) + " and shape " +
                                   to_string(t.second.shape()));
    }
    rows.push_back({known - std::begin(type_names), &t});
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.tensor->first < b.tensor->first;
  });
  Json header = Json::object();
  if (!metadata.empty()) {
    Json words = Json::object();
    for (const auto& [key, word] : metadata) words.set(key, word);
    header.set("__metadata__", std::move(words));
  }
  std::uint64_t at = 0;
  for (const Row& r : rows) {
    const Tensor& t = r.tensor->second;
    Json shape = Json::array(), offsets = Json::array(), entry = Json::object();
    for (const std::int64_t d : t.shape()) shape.push(d);
    offsets.push(at).push(at + t.size_bytes());
    at += t.size_bytes();
    entry.set("dtype", type_names[r.rank].name).set("shape", std::move(shape)).set("data_offsets", std::move(offsets));
    header.set(r.tensor->first, std::move(entry));
  }
  const std::string text = header.dump();
  // The format wants no spaces; those inside strings stay.
  std::string compact;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      compact += text[i++];
    } else if (text[i] == '"') {
      quoted = !quoted;
    }
    if (text[i] != ' ' || quoted) compact += text[i];
  }
  compact.append((8 - compact.size() % 8) % 8, ' ');
  std::string out(8, '\0');
  const std::uint64_t length = compact.size();
  std::memcpy(out.data(), &length, 8);
  out += compact;
  for (const Row& r : rows) {
    const auto bytes = r.tensor->second.bytes();
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return out;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "formats/file/gguf.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <set>
#include <type_traits>

#include "formats/base/bytes.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

using Kind = GgufValue::Kind;

constexpr std::string_view magic = "GGUF";
constexpr std::uint32_t newest = 3, oldest = 2;
constexpr std::size_t most_axes = 4;

// ggml.h and ggml-common.h; numbers that are left out were given up.
constexpr GgmlType types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36}};

std::uint64_t padded(std::uint64_t size, std::uint64_t alignment) { return (size + alignment - 1) & ~(alignment - 1); }

/// Calls f with a number of the type that the kind stores, but for texts and lists.
template <class F>
void with_stored(Kind kind, const F& f) {
  switch (kind) {
    case Kind::boolean:
    case Kind::u8: return f(std::uint8_t{});
    case Kind::i8: return f(std::int8_t{});
    case Kind::u16: return f(std::uint16_t{});
    case Kind::i16: return f(std::int16_t{});
    case Kind::u32: return f(std::uint32_t{});
    case Kind::i32: return f(std::int32_t{});
    case Kind::u64: return f(std::uint64_t{});
    case Kind::i64: return f(std::int64_t{});
    case Kind::f32: return f(float{});
    case Kind::f64: return f(double{});
    case Kind::text:
    case Kind::list: break;
  }
  QTOOL_ENSURE(false, "texts and lists are no numbers");
}

/// What numbers of a type are held as.
template <class T>
using Held = std::conditional_t<std::is_floating_point_v<T>, double,
                                std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>;

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& source) : in_(bytes), source_(source) {}

  [[noreturn]] void fail(const std::string& what) const { throw Error(Code::input, source_ + ": " + what); }

  /// Numbers of values and tensors.
  std::pair<std::uint64_t, std::uint64_t> head() {
    if (!Gguf::is_one(in_.bytes(magic.size()))) fail("this is no GGUF file");
    const auto version = in_.number<std::uint32_t>();
    if (version != 0 && (version & 0xffff) == 0) fail("this GGUF file is big-endian, which is not read");
    if (version < oldest || version > newest) {
      fail("GGUF version " + std::to_string(version) + " is not read, only 2 and 3");
    }
    constexpr std::uint64_t least_tensor = 8 + 4 + 4 + 8, least_value = 8 + 1 + 4 + 1;
    const auto tensors = in_.size(least_tensor);
    return {in_.size(least_value), tensors};
  }

  std::string text() { return in_.text(); }

  GgufValue value(const std::string& key) {
    GgufValue v;
    v.kind = kind(key);
    std::uint64_t count = 1;
    if (v.kind == Kind::list) {
      v.is_list = true;
      v.kind = kind(key);
      if (v.kind == Kind::list) fail("key \"" + key + "\" holds lists of lists, which GGUF files do not have");
      count = in_.size(least(v.kind));
    }
    if (v.kind == Kind::text) {
      std::vector<std::string> texts;
      for (std::uint64_t i = 0; i < count; ++i) texts.push_back(in_.text());
      v.items = std::move(texts);
      return v;
    }
    with_stored(v.kind, [&](auto sample) {
      using T = decltype(sample);
      std::vector<Held<T>> numbers;
      for (std::uint64_t i = 0; i < count; ++i) numbers.push_back(static_cast<Held<T>>(in_.number<T>()));
      if (v.kind == Kind::boolean &&
          std::any_of(numbers.begin(), numbers.end(), [](auto b) { return b != 0 && b != 1; })) {
        fail("key \"" + key + "\" holds a boolean that is neither 0 nor 1");
      }
      v.items = std::move(numbers);
    });
    return v;
  }

  /// The tensor without its data, and where those begin in the data part.
  std::pair<GgufTensor, std::uint64_t> tensor() {
    GgufTensor t;
    t.name = in_.text();
    const auto rank = in_.number<std::uint32_t>();
    if (rank > most_axes) fail("tensor \"" + t.name + "\" has " + std::to_string(rank) + " axes, more than 4");
    constexpr std::uint64_t most = std::uint64_t{1} << 40;
    std::uint64_t left = most;  // also where an axis is empty
    for (std::uint32_t a = 0; a < rank; ++a) {
      const auto extent = in_.number<std::uint64_t>();
      if (extent > left) fail("tensor \"" + t.name + "\" is impossibly large");
      left /= std::max<std::uint64_t>(extent, 1);
      t.shape.insert(t.shape.begin(), static_cast<std::int64_t>(extent));
    }
    const auto number = in_.number<std::uint32_t>();
    t.type = find_ggml_type(number);
    if (t.type == nullptr) {
      fail("tensor \"" + t.name + "\" has the type number " + std::to_string(number) + ", which is unknown");
    }
    if ((t.shape.empty() ? 1 : t.shape.back()) % t.type->block != 0) {
      fail("tensor \"" + t.name + "\" is " + std::string(t.type->name) + ", and its rows are not whole blocks of " +
           std::to_string(t.type->block));
    }
    return {std::move(t), in_.number<std::uint64_t>()};
  }

  std::size_t left() const { return in_.left(); }

 private:
  static std::uint64_t least(Kind kind) {
    std::uint64_t size = sizeof(std::uint64_t);  // the length of a text
    if (kind != Kind::text) with_stored(kind, [&](auto sample) { size = sizeof sample; });
    return size;
  }
  Kind kind(const std::string& key) {
    const auto number = in_.number<std::uint32_t>();
    if (number > static_cast<std::uint32_t>(Kind::f64)) {
      fail("key \"" + key + "\" is of kind " + std::to_string(number) + ", which is unknown");
    }
    return static_cast<Kind>(number);
  }

  ByteReader in_;
  const std::string& source_;
};

void put(ByteWriter& out, const GgufValue& value) {
  if (value.is_list) out.number(Kind::list);
  out.number(value.kind);
  std::visit(
      [&](const auto& items) {
        if (value.is_list) out.number(std::uint64_t{items.size()});
        QTOOL_ENSURE(value.is_list || items.size() == 1, "a value that is no list is one");
        using Item = typename std::decay_t<decltype(items)>::value_type;
        if constexpr (std::is_same_v<Item, std::string>) {
          QTOOL_ENSURE(value.kind == Kind::text, "texts are held as texts");
          for (const std::string& s : items) out.text(s);
        } else {
          with_stored(value.kind, [&](auto sample) {
            using T = decltype(sample);
            for (const Item item : items) out.number(static_cast<T>(item));
          });
        }
      },
      value.items);
}

std::string_view characters(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// What is wrong with a name, empty: nothing. `known` has those before it.
std::string bad_name(const std::string& name, std::set<std::string>& known, std::size_t longest,
                     const std::string& what) {
  if (name.empty()) return "a " + what + " has no name";
  if (name.size() > longest) {
    return what + " \"" + name + "\" has a name of " + std::to_string(name.size()) + " bytes, and GGUF files hold " +
           std::to_string(longest);
  }
  return known.insert(name).second ? "" : what + " \"" + name + "\" is there twice";
}

constexpr std::size_t any_length = std::numeric_limits<std::size_t>::max();

/// 0: what is said about it is wrong.
std::uint64_t alignment_in(const Gguf::Values& values) {
  for (const auto& [key, value] : values) {
    if (key != "general.alignment") continue;
    const auto number = value.as_unsigned();
    return value.kind == Kind::u32 && number && std::has_single_bit(*number) ? *number : 0;
  }
  return 32;
}
constexpr const char* bad_alignment = "key \"general.alignment\" is no power of two of kind u32";

}  // namespace

const GgmlType* find_ggml_type(std::uint32_t number) {
  const auto* found =
      std::find_if(std::begin(types), std::end(types), [&](const GgmlType& t) { return t.number == number; });
  return found == std::end(types) ? nullptr : found;
}

const GgmlType* find_ggml_type(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(types), std::end(types), [&](const GgmlType& t) { return t.name == name; });
  return found == std::end(types) ? nullptr : found;
}

GgufValue GgufValue::text(std::string s) { return {Kind::text, false, std::vector<std::string>{std::move(s)}}; }
GgufValue GgufValue::texts(std::vector<std::string> s) { return {Kind::text, true, std::move(s)}; }
GgufValue GgufValue::u32(std::uint32_t n) { return {Kind::u32, false, std::vector<std::uint64_t>{n}}; }

const std::string* GgufValue::as_text() const {
  return kind == Kind::text && !is_list ? &std::get<std::vector<std::string>>(items).front() : nullptr;
}
const std::vector<std::string>* GgufValue::as_texts() const {
  return kind == Kind::text && is_list ? &std::get<std::vector<std::string>>(items) : nullptr;
}
std::optional<std::uint64_t> GgufValue::as_unsigned() const {
  const auto* numbers = std::get_if<std::vector<std::uint64_t>>(&items);
  return numbers && !is_list ? std::optional(numbers->front()) : std::nullopt;
}

std::uint64_t gguf_bytes(const GgufTensor& t) {
  return static_cast<std::uint64_t>(element_count(t.shape) / t.type->block * t.type->bytes);
}

bool Gguf::is_one(std::span<const std::byte> bytes) {
  return bytes.size() >= magic.size() && characters(bytes.first(magic.size())) == magic;
}

Gguf::Gguf(const std::filesystem::path& path) {
  const MappedFile file(path);
  *this = Gguf(file.bytes(), path.string(), file.owner());
}

Gguf::Gguf(std::span<const std::byte> bytes, std::string source, std::shared_ptr<const void> owner)
    : source_(std::move(source)), owner_(std::move(owner)) {
  try {
    parse(bytes);
  } catch (const Error& e) {
    if (e.code() != Code::input || std::string_view(e.what()).starts_with(source_ + ": ")) throw;
    throw Error(Code::input, source_ + ": this GGUF file ends early, or a length in it is wrong");
  }
}

void Gguf::parse(std::span<const std::byte> bytes) {
  Parser in(bytes, source_);
  std::vector<std::uint64_t> offsets;
  const auto [values, tensors] = in.head();
  std::set<std::string> keys, names;
  const auto check = [&](const std::string& problem) {
    if (!problem.empty()) in.fail(problem);
  };
  for (std::uint64_t i = 0; i < values; ++i) {
    std::string key = in.text();
    check(bad_name(key, keys, any_length, "key"));
    GgufValue value = in.value(key);
    values_.emplace_back(std::move(key), std::move(value));
  }
  alignment_ = alignment_in(values_);
  if (alignment_ == 0) in.fail(bad_alignment);
  for (std::uint64_t i = 0; i < tensors; ++i) {
    auto [tensor, offset] = in.tensor();
    check(bad_name(tensor.name, names, longest_name, "tensor"));
    tensors_.push_back(std::move(tensor));
    offsets.push_back(offset);
  }
  const std::uint64_t begin = padded(bytes.size() - in.left(), alignment_);
  std::uint64_t at = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& t = tensors_[i];
    const std::uint64_t size = gguf_bytes(t);
    if (offsets[i] != at) in.fail("tensor \"" + t.name + "\" does not follow the one before it");
    if (begin > bytes.size() || at > bytes.size() - begin || size > bytes.size() - begin - at) {
      in.fail("the file ends before the data of tensor \"" + t.name + "\" do");
    }
    t.data = bytes.subspan(begin + at, size);
    at += padded(size, alignment_);
  }
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto found = std::find_if(values_.begin(), values_.end(), [&](const auto& v) { return v.first == key; });
  return found == values_.end() ? nullptr : &found->second;
}

void write_gguf(const Gguf::Values& values, const std::vector<GgufTensor>& tensors,
                const std::function<void(std::string_view)>& write) {
  std::set<std::string> keys, names;
  ByteWriter head;
  const auto check = [](const std::string& problem) {
    if (!problem.empty()) throw Error(Code::input, "for a GGUF file: " + problem);
  };
  head.bytes(std::as_bytes(std::span(magic))).number(newest);
  head.number(std::uint64_t{tensors.size()}).number(std::uint64_t{values.size()});
  for (const auto& [key, value] : values) {
    check(bad_name(key, keys, any_length, "key"));
    head.text(key);
    put(head, value);
  }
  const std::uint64_t alignment = alignment_in(values);
  if (alignment == 0) check(bad_alignment);
  std::uint64_t at = 0;
  for (const GgufTensor& t : tensors) {
    check(bad_name(t.name, names, Gguf::longest_name, "tensor"));
    if (t.shape.size() > most_axes || (t.shape.empty() ? 1 : t.shape.back()) % t.type->block != 0) {
      throw Error(Code::input, "tensor \"" + t.name + "\" of shape " + to_string(t.shape) + " does not fit " +
                                   std::string(t.type->name) + " in a GGUF file");
    }
    QTOOL_ENSURE(t.data.size() == gguf_bytes(t), "a tensor has the bytes that its shape and type say");
    head.text(t.name).number(static_cast<std::uint32_t>(t.shape.size()));
    for (auto extent = t.shape.rbegin(); extent != t.shape.rend(); ++extent)
      head.number(static_cast<std::uint64_t>(*extent));
    head.number(t.type->number).number(at);
    at += padded(t.data.size(), alignment);
  }
  const auto pad = [&](std::uint64_t size) {
    const std::string zeros(padded(size, alignment) - size, '\0');
    if (!zeros.empty()) write(zeros);
  };
  write(characters(head.written()));
  pad(head.written().size());
  for (const GgufTensor& t : tensors) {
    write(characters(t.data));
    pad(t.data.size());
  }
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "formats/file/npy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "formats/base/error.h"

namespace qtool {
namespace {

struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr TypeName type_names[] = {{"f4", DType::f32}, {"f8", DType::f64},  {"f2", DType::f16}, {"b1", DType::boolean},
                                   {"i1", DType::i8},  {"u1", DType::u8},   {"i2", DType::i16}, {"u2", DType::u16},
                                   {"i4", DType::i32}, {"u4", DType::u32},  {"i8", DType::i64}, {"u8", DType::u64},
                                   {"c8", DType::c64}, {"c16", DType::c128}};

/// Reads the header: a Python dictionary of three known keys.
class Header {
 public:
  Header(std::string_view text, const std::string& source) : text_(text), source_(source) { parse(); }
  DType dtype = DType::f32;
  bool fortran = false;
  Shape shape;

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Code::input, source_ + ": the .npy header " + what, "write the array with numpy.save");
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void expect(std::string_view word) {
    if (!take(word)) fail("is broken: \"" + std::string(word) + "\" expected");
  }
  std::string_view quoted() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : ' ';
    if (quote != '\'' && quote != '"') fail("is broken, or describes a structured array");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("is broken: a string does not end");
    const std::string_view word = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return word;
  }
  void read_dtype() {
    const std::string_view word = quoted();
    if (word.size() >= 2 && word[0] == '>' && word.substr(1) != "b1") {
      fail("says big-endian data (" + std::string(word) + "), which is not read");
    }
    const std::string_view plain = word.substr(std::min<std::size_t>(1, word.size()));
    const auto* known =
        std::find_if(std::begin(type_names), std::end(type_names), [&](const TypeName& t) { return t.name == plain; });
    if (known == std::end(type_names) || (word[0] != '<' && word[0] != '|' && word[0] != '=')) {
      fail("has the type \"" + std::string(word) + "\", which is not read");
    }
    dtype = known->dtype;
  }
  void read_shape() {
    expect("(");
    while (!take(")")) {
      skip_space();
      std::int64_t extent = 0;
      const char* begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), extent);
      if (error != std::errc() || extent < 0 || shape.size() >= 64) fail("has a broken shape");
      at_ += static_cast<std::size_t>(end - begin);
      (void)take("L");  // Python 2 wrote long integers so
      shape.push_back(extent);
      if (!take(",")) {
        expect(")");
        break;
      }
    }
  }
  void parse() {
    bool has_dtype = false, has_order = false, has_shape = false;
    expect("{");
    while (!take("}")) {
      const std::string_view key = quoted();
      expect(":");
      if (key == "descr" && !has_dtype) {
        has_dtype = true;
        read_dtype();
      } else if (key == "fortran_order" && !has_order) {
        has_order = true;
        fortran = take("True");
        if (!fortran) expect("False");
      } else if (key == "shape" && !has_shape) {
        has_shape = true;
        read_shape();
      } else {
        fail("has the key \"" + std::string(key) + "\", which is unknown or there twice");
      }
      if (!take(",")) {
        expect("}");
        break;
      }
    }
    skip_space();
    if (!has_dtype || !has_order || !has_shape || at_ != text_.size()) fail("is broken");
  }

  std::string_view text_;
  const std::string& source_;
  std::size_t at_ = 0;
};

/// Fortran order to C order: the first axis runs fastest in `from`.
void transpose(std::span<const std::byte> from, std::span<std::byte> to, const Shape& shape, std::size_t width) {
  std::vector<std::size_t> stride(shape.size()), index(shape.size(), 0);
  std::size_t step = width;
  for (std::size_t a = 0; a < shape.size(); ++a) {
    stride[a] = step;
    step *= static_cast<std::size_t>(shape[a]);
  }
  std::size_t at = 0;
  for (std::size_t i = 0; i < to.size(); i += width) {
    std::memcpy(to.data() + i, from.data() + at, width);
    for (std::size_t a = shape.size(); a-- > 0;) {
      at += stride[a];
      if (++index[a] < static_cast<std::size_t>(shape[a])) break;
      at -= stride[a] * index[a];
      index[a] = 0;
    }
  }
}

}  // namespace

Tensor read_npy(std::span<const std::byte> bytes, const std::string& source, std::shared_ptr<const void> owner) {
  constexpr std::string_view magic = "\x93NUMPY";
  const auto refuse = [&](const std::string& what) { return Error(Code::input, source + ": " + what); };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    throw refuse("this is no .npy array");
  }
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(bytes[i]); };
  const std::size_t version = byte(6), prefix = version == 1 ? 10 : 12;
  if (version < 1 || version > 3 || bytes.size() < prefix) throw refuse("this .npy version is unknown");
  std::size_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > bytes.size() - prefix) throw refuse("the .npy header is longer than the file");
  const Header header({reinterpret_cast<const char*>(bytes.data()) + prefix, length}, source);

  const auto data = bytes.subspan(prefix + length);
  const auto width = static_cast<std::size_t>(bit_width(header.dtype)) / 8;
  const std::int64_t count = element_count(header.shape);
  if (data.size() % width != 0 || static_cast<std::uint64_t>(count) != data.size() / width) {
    throw refuse("the array " + to_string(header.shape) + " of " + std::string(name_of(header.dtype)) + " needs " +
                 std::to_string(count) + " elements, the file holds " + std::to_string(data.size() / width));
  }
  const bool plain = !header.fortran || header.shape.size() < 2;
  if (plain && owner && reinterpret_cast<std::uintptr_t>(data.data()) % 16 == 0) {
    return Tensor(header.dtype, header.shape, Buffer::view(data, std::move(owner)));
  }
  Tensor t = Tensor::unset(header.dtype, header.shape);
  if (plain) {
    std::copy(data.begin(), data.end(), t.write_bytes().begin());
  } else {
    transpose(data, t.write_bytes(), header.shape, width);
  }
  return t;
}

std::string npy_bytes(const Tensor& t) {
  const auto* known = std::find_if(std::begin(type_names), std::end(type_names),
                                   [&](const TypeName& n) { return n.dtype == t.dtype(); });
  if (known == std::end(type_names)) return npy_bytes(to_f32(t));
  std::string header = "{'descr': '";
  header += bit_width(t.dtype()) == 8 ? "|" : "<";
  header += std::string(known->name) + "', 'fortran_order': False, 'shape': (";
  for (const std::int64_t d : t.shape()) header += std::to_string(d) + (t.rank() == 1 ? "," : ", ");
  if (t.rank() > 1) header.resize(header.size() - 2);
  header += "), }";
  // Data begin at a multiple of 64; the header ends in a line feed.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string out = "\x93NUMPY\x01";
  out += '\0';
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  out += header;
  const auto bytes = t.bytes();
  out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return out;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "formats/base/json.h"

#include <charconv>
#include <cmath>
#include <unordered_set>

#include "formats/base/error.h"

namespace qtool {
namespace {

template <class T, class V>
const T& get(const V& value, const char* wanted) {
  if (const T* p = std::get_if<T>(&value)) return *p;
  throw Error(Code::input, std::string("JSON: expected ") + wanted);
}

void write_string(std::string& out, std::string_view s) {
  out += '"';
  for (const char c : s) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (u < 0x20 || u == 0x7f) {
      static constexpr char digits[] = "0123456789abcdef";
      out += "\\u00";
      out += digits[u >> 4];
      out += digits[u & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

class Parser {
 public:
  Parser(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("unexpected text after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    std::size_t line = 1, column = 1;
    for (std::size_t i = 0; i < at_ && i < text_.size(); ++i) {
      ++column;
      if (text_[i] == '\n') ++line, column = 1;
    }
    throw Error(Code::input,
                std::string(source_) + ":" + std::to_string(line) + ":" + std::to_string(column) + ": JSON: " + what);
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }
  void expect(char c) {
    if (peek() != c || at_ >= text_.size()) fail(std::string("expected '") + c + "'");
    ++at_;
  }
  bool word(std::string_view w) {
    if (text_.substr(at_, w.size()) != w) return false;
    at_ += w.size();
    return true;
  }

  Json parse_value(int depth) {
    if (depth > 512) fail("nested too deeply");
    skip_space();
    switch (peek()) {
      case '{': return parse_object(depth);
      case '[': return parse_array(depth);
      case '"': return parse_string();
      case 't':
        if (word("true")) return true;
        break;
      case 'f':
        if (word("false")) return false;
        break;
      case 'n':
        if (word("null")) return {};
        break;
      default: return parse_number();
    }
    fail("unknown word");
  }

  Json parse_object(int depth) {
    Json::Object members;
    std::unordered_set<std::string> names;  // files with 10^6 members exist
    expect('{');
    skip_space();
    if (peek() == '}') {
      ++at_;
      return Json(std::move(members));
    }
    for (;;) {
      skip_space();
      std::string name = parse_string();
      if (!names.insert(name).second) fail("duplicate member \"" + name + "\"");
      skip_space();
      expect(':');
      members.emplace_back(std::move(name), parse_value(depth + 1));
      skip_space();
      if (peek() == ',') {
        ++at_;
        continue;
      }
      expect('}');
      return Json(std::move(members));
    }
  }

  Json parse_array(int depth) {
    Json array = Json::array();
    expect('[');
    skip_space();
    if (peek() == ']') {
      ++at_;
      return array;
    }
    for (;;) {
      array.push(parse_value(depth + 1));
      skip_space();
      if (peek() == ',') {
        ++at_;
        continue;
      }
      expect(']');
      return array;
    }
  }

  unsigned hex4() {
    unsigned v = 0;
    const auto part = text_.substr(at_, 4);
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), v, 16);
    if (part.size() != 4 || error != std::errc{} || end != part.data() + 4) fail("bad \\u escape");
    at_ += 4;
    return v;
  }

  void append_utf8(std::string& out, unsigned c) {
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += static_cast<char>(0xc0 | c >> 6);
      out += static_cast<char>(0x80 | (c & 63));
    } else if (c < 0x10000) {
      out += static_cast<char>(0xe0 | c >> 12);
      out += static_cast<char>(0x80 | (c >> 6 & 63));
      out += static_cast<char>(0x80 | (c & 63));
    } else {
      out += static_cast<char>(0xf0 | c >> 18);
      out += static_cast<char>(0x80 | (c >> 12 & 63));
      out += static_cast<char>(0x80 | (c >> 6 & 63));
      out += static_cast<char>(0x80 | (c & 63));
    }
  }

  /// Copies one well-formed UTF-8 sequence of two to four bytes.
  void copy_sequence(std::string& out, unsigned char lead) {
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || at_ + static_cast<std::size_t>(more) >= text_.size()) fail("invalid UTF-8");
    unsigned c = lead & (0x3fu >> more);
    out += static_cast<char>(lead);
    ++at_;
    for (int i = 0; i < more; ++i) {
      const auto u = static_cast<unsigned char>(text_[at_]);
      if ((u & 0xc0) != 0x80) fail("invalid UTF-8");
      c = c << 6 | (u & 63);
      out += text_[at_++];
    }
    const unsigned least = more == 1 ? 0x80 : more == 2 ? 0x800 : 0x10000;
    if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) fail("invalid UTF-8");
  }

  std::string parse_string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) fail("unterminated string");
      const auto u = static_cast<unsigned char>(text_[at_]);
      if (u == '"') {
        ++at_;
        return out;
      }
      if (u < 0x20) fail("control character in a string");
      if (u >= 0x80) {
        copy_sequence(out, u);
        continue;
      }
      ++at_;
      if (u != '\\') {
        out += static_cast<char>(u);
        continue;
      }
      const char escape = peek();
      ++at_;
      switch (escape) {
        case '"':
        case '\\':
        case '/': out += escape; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': {
          unsigned c = hex4();
          if (c >= 0xd800 && c < 0xdc00) {
            if (!word("\\u")) fail("lone surrogate");
            const unsigned low = hex4();
            if (low < 0xdc00 || low > 0xdfff) fail("lone surrogate");
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
          } else if (c >= 0xdc00 && c < 0xe000) {
            fail("lone surrogate");
          }
          append_utf8(out, c);
          break;
        }
        default: fail("unknown escape");
      }
    }
  }

  Json parse_number() {
    const std::size_t start = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) fail("expected a value");
    };
    if (peek() == '-') ++at_;
    if (peek() == '0')
      ++at_;
    else
      digits();
    bool integer = true;
    if (peek() == '.') {
      integer = false;
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integer = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const std::string_view part = text_.substr(start, at_ - start);
    if (integer) {
      std::int64_t v = 0;
      if (std::from_chars(part.data(), part.data() + part.size(), v).ec == std::errc{}) return v;
    }
    double v = 0;
    if (std::from_chars(part.data(), part.data() + part.size(), v).ec != std::errc{}) fail("number out of range");
    return v;
  }

  std::string_view text_, source_;
  std::size_t at_ = 0;
};

void write(std::string& out, const Json& j, int indent, int level) {
  const auto newline = [&](int l) {
    if (indent > 0) out += '\n', out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(l), ' ');
  };
  if (j.is_null()) {
    out += "null";
  } else if (j.is_bool()) {
    out += j.as_bool() ? "true" : "false";
  } else if (j.is_integer()) {
    out += std::to_string(j.as_integer());
  } else if (j.is_number()) {
    const double v = j.as_number();
    if (!std::isfinite(v)) {  // JSON has no such numbers; a string keeps the fact readable
      out += std::isnan(v) ? "\"nan\"" : v > 0 ? "\"inf\"" : "\"-inf\"";
      return;
    }
    char buffer[32];
    const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, v);
    out.append(buffer, end);
  } else if (j.is_string()) {
    write_string(out, j.as_string());
  } else if (j.is_array()) {
    const auto& a = j.as_array();
    out += '[';
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (i > 0) out += indent > 0 ? "," : ", ";
      newline(level + 1);
      write(out, a[i], indent, level + 1);
    }
    if (!a.empty()) newline(level);
    out += ']';
  } else {
    const auto& o = j.as_object();
    out += '{';
    for (std::size_t i = 0; i < o.size(); ++i) {
      if (i > 0) out += indent > 0 ? "," : ", ";
      newline(level + 1);
      write_string(out, o[i].first);
      out += ": ";
      write(out, o[i].second, indent, level + 1);
    }
    if (!o.empty()) newline(level);
    out += '}';
  }
}

}  // namespace

bool Json::as_bool() const { return get<bool>(value_, "true or false"); }
std::int64_t Json::as_integer() const { return get<std::int64_t>(value_, "an integer"); }
double Json::as_number() const {
  return is_integer() ? static_cast<double>(as_integer()) : get<double>(value_, "a number");
}
const std::string& Json::as_string() const { return get<std::string>(value_, "a string"); }
const Json::Array& Json::as_array() const { return get<Array>(value_, "an array"); }
const Json::Object& Json::as_object() const { return get<Object>(value_, "an object"); }

const Json* Json::find(std::string_view name) const {
  if (const auto* object = std::get_if<Object>(&value_)) {
    for (const auto& [key, value] : *object) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

Json& Json::set(std::string_view name, Json value) {
  auto& object = std::get<Object>(value_);
  for (auto& [key, old] : object) {
    if (key == name) {
      old = std::move(value);
      return *this;
    }
  }
  object.emplace_back(std::string(name), std::move(value));
  return *this;
}

Json& Json::push(Json value) {
  std::get<Array>(value_).push_back(std::move(value));
  return *this;
}

std::string Json::dump(int indent) const {
  std::string out;
  write(out, *this, indent, 0);
  return out;
}

Json Json::parse(std::string_view text, std::string_view source) { return Parser(text, source).document(); }

}  // namespace qtool

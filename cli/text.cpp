// SPDX-License-Identifier: Apache-2.0
#include "cli/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "formats/base/json.h"
#include "formats/base/memory.h"

namespace qtool {
namespace {

std::string format(const char* pattern, int digits, double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 400> buffer{};
  std::snprintf(buffer.data(), buffer.size(), pattern, digits, value);
  return buffer.data();
}

/// Code points: near enough to columns for names of nodes.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

std::string text_in(const Json& object, std::string_view name) {
  const Json* member = object.find(name);
  return member && member->is_string() ? member->as_string() : std::string();
}

std::string printable(std::string_view text) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;  // U+0080-9F
    if (c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      const auto code = c1 ? static_cast<unsigned char>(text[++i]) : c;
      out += "\\x";
      out += digits[code >> 4];
      out += digits[code & 15];
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string fixed(double value, int digits) { return format("%.*f", digits, value); }

std::string significant(double value, int digits) { return format("%.*g", digits, value); }

std::string grouped(std::uint64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string bytes_text(std::uint64_t bytes) {
  const std::string size = size_text(bytes);
  return bytes < 1024 ? size : grouped(bytes) + " bytes (" + size + ")";
}

std::string percent(double fraction, int digits) { return fixed(100 * fraction, digits) + " %"; }

std::string Table::text(std::string_view indent) const {
  std::vector<std::vector<std::string>> lines;
  if (!head_.empty()) lines.push_back(head_);
  for (const auto& row : rows_) {
    lines.emplace_back();
    for (const std::string& cell : row) {
      std::string one_line = printable(cell);
      std::replace(one_line.begin(), one_line.end(), '\n', ' ');
      lines.back().push_back(std::move(one_line));
    }
  }
  std::vector<std::size_t> widths;
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width_of(line[i]));
  }
  std::string out;
  for (const auto& line : lines) {
    std::string row(indent);
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string pad(widths[i] - width_of(line[i]), ' ');
      const bool is_left = std::find(left_.begin(), left_.end(), i) != left_.end();
      row += (i ? "  " : "") + (is_left ? line[i] + pad : pad + line[i]);
    }
    row.erase(row.find_last_not_of(' ') + 1);
    out += row + "\n";
  }
  return out;
}

std::string wrapped(std::string_view text, std::size_t indent, std::size_t width) {
  std::string out;
  std::size_t column = indent;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    if (column > indent && column + 1 + word.size() > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    text.remove_prefix(std::min(text.size(), end + 1));
  }
  return out;
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
// Text for people: numbers, tables, names from files made harmless. No locale enters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qtool {

class Json;

/// The member of an object where it is text; else empty.
std::string text_in(const Json& object, std::string_view name);
/// Control characters (which could drive a terminal) as \xNN; newlines and tabs stay.
std::string printable(std::string_view);
/// "12.35"; infinities as "inf".
std::string fixed(double value, int digits);
/// Significant digits: "0.0123", "1.2e-07".
std::string significant(double value, int digits);
/// "1,234,567".
std::string grouped(std::uint64_t value);
/// "740,123 bytes (723 KiB)".
std::string bytes_text(std::uint64_t bytes);
/// "99.50 %".
std::string percent(double fraction, int digits = 2);

/// Words (strings or views) with a space between two.
template <class Words>
std::string joined(const Words& words) {
  std::string text;
  for (const auto& word : words) (text += text.empty() ? "" : " ") += word;
  return text;
}

/// Aligned columns: first left, the others as told.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : head_(std::move(head)) {}
  /// Column `i` is text: aligned left. The first one always is.
  Table& left(std::size_t i) {
    left_.push_back(i);
    return *this;
  }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  std::string text(std::string_view indent = "") const;

 private:
  std::vector<std::string> head_;
  std::vector<std::size_t> left_{0};
  std::vector<std::vector<std::string>> rows_;
};

/// Words broken into lines of at most `width`, each after `indent` spaces (the first line without).
std::string wrapped(std::string_view text, std::size_t indent, std::size_t width = 100);

}  // namespace qtool

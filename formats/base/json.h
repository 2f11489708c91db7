// SPDX-License-Identifier: Apache-2.0
// Json: a small strict JSON value. Objects keep the order of insertion, so that output is stable. Integers
// stay integers; numbers print in the shortest form that reads back to the same double.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace qtool {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;
  Json(bool v) : value_(v) {}
  Json(int v) : value_(static_cast<std::int64_t>(v)) {}
  Json(std::int64_t v) : value_(v) {}
  Json(std::uint64_t v) : value_(static_cast<std::int64_t>(v)) {}
  Json(double v) : value_(v) {}
  Json(const char* v) : value_(std::string(v)) {}
  Json(std::string v) : value_(std::move(v)) {}
  Json(std::string_view v) : value_(std::string(v)) {}
  /// Requires: no name twice.
  explicit Json(Object members) : value_(std::move(members)) {}
  static Json array() {
    Json j;
    j.value_ = Array{};
    return j;
  }
  static Json object() {
    Json j;
    j.value_ = Object{};
    return j;
  }

  bool is_null() const { return value_.index() == 0; }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const { return std::holds_alternative<std::int64_t>(value_); }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Each throws Error(Code::input) when the value is of another type.
  bool as_bool() const;
  std::int64_t as_integer() const;
  double as_number() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;

  /// The member, or null when this is no object or has no such member.
  const Json* find(std::string_view name) const;
  /// Replaces or appends. Requires: an object.
  Json& set(std::string_view name, Json value);
  /// Requires: an array.
  Json& push(Json value);

  /// `indent` spaces per level; 0: one line.
  std::string dump(int indent = 0) const;
  /// Strict RFC 8259 (UTF-8 checked, depth at most 512, duplicate member names refused). Errors carry `source`,
  /// line and column.
  static Json parse(std::string_view text, std::string_view source);

  friend bool operator==(const Json&, const Json&) = default;

 private:
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "formats/lock.h"

#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/schema.h"

namespace qtool {
namespace {

constexpr const char* remake = "quantize the model again: a lock is written beside each";
constexpr std::array<std::pair<Grain::Kind, const char*>, 4> grains{{{Grain::Kind::tensor, "tensor"},
                                                                     {Grain::Kind::axis, "axis"},
                                                                     {Grain::Kind::groups, "groups"},
                                                                     {Grain::Kind::blocks, "blocks"}}};

Json or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json words_json(const std::vector<std::string>& words) {
  Json list = Json::array();
  for (const std::string& word : words) list.push(word);
  return list;
}

Json numbers_json(const LockedNumbers& numbers) {
  if (numbers.values.empty()) return Json::object().set("count", numbers.count).set("sha256", numbers.sha256);
  Json list = Json::array();
  constexpr double exact_below = 9007199254740992.0;  // 2^53
  for (const double v : numbers.values) {
    const bool whole = std::fabs(v) < exact_below && v == std::trunc(v);
    list.push(whole ? Json(static_cast<std::int64_t>(v)) : Json(v));
  }
  return list;
}

Json grain_json(const Grain& grain) {
  Json json = Json::array();
  for (const auto& [kind, name] : grains) {
    if (kind == grain.kind) json.push(name);
  }
  if (grain.kind == Grain::Kind::axis || grain.kind == Grain::Kind::groups) json.push(grain.axis);
  if (grain.kind == Grain::Kind::groups || grain.kind == Grain::Kind::blocks) json.push(grain.group);
  if (grain.kind == Grain::Kind::blocks) json.push(grain.group2);
  return json;
}

Json step_json(const LockedStep& s) {
  return Json::object().set("id", s.id).set("pass", s.pass).set("revision", s.revision).set("knobs", s.knobs);
}

Json constant_json(const LockedConstant& c) {
  return Json::object().set("step", c.step).set("name", c.name).set("was", or_null(c.was)).set("is", c.is);
}

Json layer_json(const LockedLayer& l) {
  return Json::object().set("node", l.node).set("output", l.output).set("sqnr_db", l.sqnr_db);
}

Json float_json(const LockedFloat& f) {
  return Json::object().set("node", f.node).set("pass", f.pass).set("why", f.why);
}

/// One row a line, so that line by line tools show what differs.
template <class Rows, class F>
void write_rows(std::string& out, const char* name, const Rows& rows, const F& json) {
  out += ",\n  \"" + std::string(name) + "\": [";
  const char* separator = "\n    ";
  for (const auto& row : rows) {
    out += separator + json(row).dump();
    separator = ",\n    ";
  }
  out += rows.empty() ? "]" : "\n  ]";
}

/// Reads a lock; every member is asked for by name, and what is wrong is said with it.
class Reader {
 public:
  Reader(const Json& object, std::string_view source) : object_(object), source_(source) {
    if (!object.is_object()) fail("a row is no object");
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Code::input, std::string(source_) + ": this is no lock: " + what, remake);
  }
  const Json* find(const char* name) const {
    const Json* member = object_.find(name);
    return member && !member->is_null() ? member : nullptr;
  }
  std::string text(const char* name, bool required = true) const {
    const Json* member = find(name);
    if (!member && !required) return {};
    if (!member || !member->is_string()) fail("\"" + std::string(name) + "\" is no text");
    return member->as_string();
  }
  std::int64_t integer(const char* name, std::int64_t least, std::int64_t most) const {
    const Json* member = find(name);
    if (!member || !member->is_integer() || member->as_integer() < least || member->as_integer() > most) {
      fail("\"" + std::string(name) + "\" is no number in its range");
    }
    return member->as_integer();
  }
  bool flag(const char* name) const {
    const Json* member = find(name);
    if (member && !member->is_bool()) fail("\"" + std::string(name) + "\" is neither true nor false");
    return member && member->as_bool();
  }
  std::optional<double> number(const char* name) const {
    const Json* member = find(name);
    if (!member) return std::nullopt;
    if (!member->is_number()) fail("\"" + std::string(name) + "\" is no number");
    return member->as_number();
  }
  const Json::Array& rows(const char* name) const {
    static const Json::Array none;
    const Json* member = find(name);
    if (!member) return none;
    if (!member->is_array()) fail("\"" + std::string(name) + "\" is no list");
    return member->as_array();
  }
  std::vector<std::string> words(const char* name) const {
    std::vector<std::string> list;
    for (const Json& word : rows(name)) {
      if (!word.is_string()) fail("\"" + std::string(name) + "\" is no list of words");
      list.push_back(word.as_string());
    }
    return list;
  }
  std::vector<std::int64_t> integers(const char* name) const {
    std::vector<std::int64_t> list;
    for (const Json& number : rows(name)) {
      if (!number.is_integer() || number.as_integer() < 0) fail("\"" + std::string(name) + "\" is no list of extents");
      list.push_back(number.as_integer());
    }
    return list;
  }
  LockedNumbers numbers(const char* name) const {
    LockedNumbers n;
    const Json* member = find(name);
    if (!member) return n;
    if (member->is_object()) {
      const Reader inner(*member, source_);
      n.count = inner.integer("count", 1, std::int64_t{1} << 40);
      n.sha256 = inner.text("sha256");
      return n;
    }
    for (const Json& value : rows(name)) {
      if (!value.is_number()) fail("\"" + std::string(name) + "\" is no list of numbers");
      n.values.push_back(value.as_number());
    }
    n.count = static_cast<std::int64_t>(n.values.size());
    return n;
  }
  Grain grain() const {
    const Json::Array& parts = rows("grain");
    const std::string kind = parts.empty() || !parts[0].is_string() ? "" : parts[0].as_string();
    Grain g;
    std::vector<std::int64_t> more;
    for (std::size_t i = 1; i < parts.size(); ++i) {
      if (!parts[i].is_integer() || parts[i].as_integer() < 0) fail("\"grain\" has no such extents");
      more.push_back(parts[i].as_integer());
    }
    for (const auto& [k, name] : grains) {
      if (kind != name) continue;
      g.kind = k;
      const std::size_t wanted = k == Grain::Kind::tensor ? 0 : k == Grain::Kind::axis ? 1 : 2;
      if (more.size() != wanted || (!more.empty() && k != Grain::Kind::blocks && more[0] > 64)) break;
      if (k == Grain::Kind::blocks) g.group = more[0], g.group2 = more[1];
      if (k == Grain::Kind::axis || k == Grain::Kind::groups) g.axis = static_cast<int>(more[0]);
      if (k == Grain::Kind::groups) g.group = more[1];
      return g;
    }
    fail("\"grain\" is none");
  }

 private:
  const Json& object_;
  std::string_view source_;
};

std::vector<LockedRange> ranges_of(const Reader& r, std::string_view source) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  std::vector<LockedRange> ranges;
  std::int64_t last = 0;
  for (const Json& row : r.rows("ranges")) {
    const Reader part(row, source);
    LockedRange range;
    range.begin = part.integer("begin", last, most);
    range.end = last = part.integer("end", range.begin, most);
    range.format = part.text("format", false);
    range.scale = part.numbers("scale");
    range.zero_point = part.numbers("zero_point");
    range.codes_sha256 = part.text("codes_sha256", false);
    ranges.push_back(std::move(range));
  }
  return ranges;
}

Json range_json(const LockedRange& range) {
  Json row = Json::object().set("begin", range.begin).set("end", range.end);
  if (!range.format.empty()) row.set("format", range.format);
  if (range.scale.count > 0) row.set("scale", numbers_json(range.scale));
  if (range.zero_point.count > 0) row.set("zero_point", numbers_json(range.zero_point));
  if (!range.codes_sha256.empty()) row.set("codes_sha256", range.codes_sha256);
  return row;
}

LockedUse use_of(const Reader& r, std::string_view source) {
  LockedUse u;
  u.node = r.text("node");
  u.input = static_cast<int>(r.integer("input", -(1 << 20), 1 << 20));
  u.tensor = r.text("tensor");
  u.format = r.text("format");
  u.scale_format = r.text("scale_format", false);
  u.alternative = r.text("alternative", false);
  u.grain = r.grain();
  u.symmetric = r.flag("symmetric");
  u.narrow = r.flag("narrow");
  u.dynamic = r.flag("dynamic");
  u.is_bias = r.flag("bias");
  u.scale = r.numbers("scale");
  u.second_scale = r.numbers("second_scale");
  u.scale_mean = r.numbers("scale_mean");
  u.zero_point = r.numbers("zero_point");
  u.minimum = r.numbers("minimum");
  u.ranges = ranges_of(r, source);
  u.range_axis = u.ranges.empty() ? 0 : static_cast<int>(r.integer("range_axis", 0, 64));
  u.steps = r.words("steps");
  u.fed_back = r.flag("fed_back");
  u.rule = r.find("rule") ? static_cast<int>(r.integer("rule", 1, 1 << 20)) : 0;
  u.shape = r.integers("shape");
  u.dtype = r.text("dtype", false);
  u.float_sha256 = r.text("float_sha256", false);
  u.codes_sha256 = r.text("codes_sha256", false);
  u.sqnr_db = r.number("sqnr_db");
  u.output_db = r.number("output_db");
  return u;
}

}  // namespace

Json json_of(const LockedUse& u) {
  Json row = Json::object();
  row.set("node", u.node).set("input", u.input).set("tensor", u.tensor).set("format", u.format);
  if (!u.scale_format.empty()) row.set("scale_format", u.scale_format);
  if (!u.alternative.empty()) row.set("alternative", u.alternative);
  row.set("grain", grain_json(u.grain));
  for (const auto& [name, flag] : {std::pair{"symmetric", u.symmetric}, std::pair{"narrow", u.narrow},
                                   std::pair{"dynamic", u.dynamic}, std::pair{"bias", u.is_bias}}) {
    if (flag) row.set(name, true);
  }
  for (const auto& [name, numbers] : {std::pair{"scale", &u.scale}, std::pair{"second_scale", &u.second_scale},
                                      std::pair{"scale_mean", &u.scale_mean}, std::pair{"zero_point", &u.zero_point},
                                      std::pair{"minimum", &u.minimum}}) {
    if (numbers->count > 0) row.set(name, numbers_json(*numbers));
  }
  if (!u.ranges.empty()) {
    Json ranges = Json::array();
    for (const LockedRange& range : u.ranges) ranges.push(range_json(range));
    row.set("range_axis", u.range_axis).set("ranges", std::move(ranges));
  }
  row.set("steps", words_json(u.steps));
  if (u.fed_back) row.set("fed_back", true);
  if (u.rule > 0) row.set("rule", u.rule);
  if (u.float_sha256.empty()) return row;
  Json shape = Json::array();
  for (const std::int64_t n : u.shape) shape.push(n);
  row.set("shape", std::move(shape)).set("dtype", u.dtype).set("float_sha256", u.float_sha256);
  if (!u.codes_sha256.empty()) row.set("codes_sha256", u.codes_sha256);
  if (u.sqnr_db) row.set("sqnr_db", *u.sqnr_db);
  if (u.output_db) row.set("output_db", *u.output_db);
  return row;
}

std::string Lock::text() const {
  Json head = Json::object();
  head.set("schema", schema::lock).set("qtool", qtool).set("model_sha256", model_sha256);
  head.set("recipe_sha256", recipe_sha256).set("calibration_sha256", or_null(calibration_sha256));
  if (!outputs_sha256.empty()) head.set("output_db_data_sha256", outputs_sha256);
  std::string out = head.set("target", target).set("seed", seed).dump(2);
  out.resize(out.rfind('\n'));  // the closing brace comes last
  write_rows(out, "steps", steps, step_json);
  write_rows(out, "folds", folds, [](const Json& fold) { return fold; });
  write_rows(out, "constants", constants, constant_json);
  write_rows(out, "uses", uses, json_of);
  write_rows(out, "layers", layers, layer_json);
  write_rows(out, "floats", floats, float_json);
  return out + "\n}\n";
}

Lock parse_lock(std::string_view text, std::string_view source) {
  const Json json = Json::parse(text, source);
  check_schema(json, schema::lock, source, remake);
  const Reader head(json, source);
  Lock lock;
  lock.qtool = head.text("qtool");
  lock.model_sha256 = head.text("model_sha256");
  lock.recipe_sha256 = head.text("recipe_sha256");
  lock.calibration_sha256 = head.text("calibration_sha256", false);
  lock.outputs_sha256 = head.text("output_db_data_sha256", false);
  lock.target = head.text("target");
  lock.seed = static_cast<std::uint64_t>(head.integer("seed", 0, std::numeric_limits<std::int64_t>::max()));
  for (const Json& row : head.rows("steps")) {
    const Reader r(row, source);
    lock.steps.push_back(
        {r.text("id"), r.text("pass"), static_cast<int>(r.integer("revision", 0, 1 << 30)), r.text("knobs")});
  }
  for (const Json& row : head.rows("folds")) {
    const Reader r(row, source);
    if (r.text("step").empty() || r.text("pass").empty()) r.fail("a fold names no pass");
    lock.folds.push_back(row);
  }
  for (const Json& row : head.rows("constants")) {
    const Reader r(row, source);
    lock.constants.push_back({r.text("step"), r.text("name"), r.text("was", false), r.text("is")});
  }
  for (const Json& row : head.rows("uses")) lock.uses.push_back(use_of(Reader(row, source), source));
  for (const Json& row : head.rows("layers")) {
    const Reader r(row, source);
    lock.layers.push_back({r.text("node"), r.text("output"), r.number("sqnr_db").value_or(0)});
  }
  for (const Json& row : head.rows("floats")) {
    const Reader r(row, source);
    lock.floats.push_back({r.text("node"), r.text("pass"), r.text("why")});
  }
  return lock;
}

Lock read_lock(const std::filesystem::path& file) { return parse_lock(read_text(file), file.string()); }

std::string exact_text(std::span<const double> numbers) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(numbers.size() * 16);
  for (const double v : numbers) {
    const auto bits = std::bit_cast<std::uint64_t>(v);
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[(bits >> shift) & 15];
  }
  return text;
}

std::vector<double> exact_numbers(std::string_view text) {
  std::vector<double> numbers;
  for (std::size_t at = 0; at < text.size(); at += 16) {
    const std::string_view word = text.substr(at, 16);
    std::uint64_t bits = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), bits, 16);
    if (word.size() != 16 || error != std::errc() || end != word.data() + word.size()) {
      throw Error(Code::input, "these are no numbers of 16 hexadecimal digits each");
    }
    numbers.push_back(std::bit_cast<double>(bits));
  }
  return numbers;
}

}  // namespace qtool

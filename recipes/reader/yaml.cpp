// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <istream>
#include <streambuf>

#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::size_t max_bytes = std::size_t{1} << 20;
constexpr std::size_t max_depth = 32;
constexpr std::size_t max_nodes = 100'000;

using List = std::vector<Setting>;

/// Builds the tree from the parser's events, with the limits checked before anything is stored.
class Builder final : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& source) : source_(source) { root_.place = {source, 1, 1}; }

  Setting take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    if (wants_key()) fail_at(place(mark), "a key is missing in front of ':'");
    put({place(mark), std::string(), false, {}});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail_at(place(mark), "aliases are not allowed in a recipe", "write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (!wants_key()) return put({place(mark), value, tag == "!", {}});
    Frame& frame = frames_.back();
    for (const auto& [name, setting] : std::get<Settings>(frame.setting.value)) {
      if (name != value) continue;
      fail_at(place(mark), "duplicate key \"" + value + "\", first given at line " + std::to_string(setting.key.line));
    }
    frame.key = value;
    frame.key_place = place(mark);
    frame.has_key = true;
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, List{});
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Settings{});
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    Setting setting;
    std::string key;
    Place key_place;
    bool has_key = false;
  };

  Place place(const YAML::Mark& mark) const { return {source_, mark.line + 1, mark.column + 1}; }
  bool wants_key() const {
    return !frames_.empty() && std::holds_alternative<Settings>(frames_.back().setting.value) &&
           !frames_.back().has_key;
  }
  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) fail_at(place(mark), "anchors are not allowed in a recipe", "write the value out");
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?" || tag == "!") return;  // plain, or quoted
    fail_at(place(mark), "the tag \"" + tag + "\" is not allowed in a recipe", "leave the tag out");
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, decltype(Setting::value) value) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (wants_key()) fail_at(place(mark), "a key must be plain text, not a list or a map (is a bracket left open?)");
    if (frames_.size() >= max_depth) {
      fail_at(place(mark), "nested deeper than " + std::to_string(max_depth) + " levels");
    }
    frames_.push_back({{place(mark), std::move(value), false, {}}, {}, {}, false});
  }
  void close() {
    Setting done = std::move(frames_.back().setting);
    frames_.pop_back();
    put(std::move(done));
  }
  void put(Setting setting) {
    if (++nodes_ > max_nodes) fail_at(setting.place, "more than " + std::to_string(max_nodes) + " values");
    if (frames_.empty()) {
      root_ = std::move(setting);
      return;
    }
    Frame& frame = frames_.back();
    if (auto* list = std::get_if<List>(&frame.setting.value)) {
      list->push_back(std::move(setting));
      return;
    }
    setting.key = frame.key_place;
    std::get<Settings>(frame.setting.value).push_back({std::move(frame.key), std::move(setting)});
    frame.has_key = false;
  }

  const std::string& source_;
  Setting root_;
  std::vector<Frame> frames_;
  std::size_t nodes_ = 0;
};

/// Line of the first byte that YAML does not allow: control characters and what is not UTF-8.
void check_characters(std::string_view text, const std::string& source) {
  int line = 1, column = 1;
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    std::size_t more = c < 0x80                ? 0
                       : c >= 0xc2 && c < 0xe0 ? 1
                       : c >= 0xe0 && c < 0xf0 ? 2
                       : c >= 0xf0 && c < 0xf5 ? 3
                                               : 9;
    if (more < 9 && i + more >= text.size()) more = 9;
    for (std::size_t j = 1; more < 9 && j <= more; ++j) {
      if ((static_cast<unsigned char>(text[i + j]) & 0xc0) != 0x80) more = 9;
    }
    if (more == 9) fail_at({source, line, column}, "not UTF-8 text");
    if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f) {
      fail_at({source, line, column}, "a control character, which YAML does not allow");
    }
    ++column;
    if (c == '\n') ++line, column = 1;
    i += more + 1;
  }
}

/// A string_view as a stream buffer, so that the text is not copied.
struct ViewBuffer : std::streambuf {
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());
    setg(begin, begin, begin + text.size());
  }
};

}  // namespace

Setting parse_yaml(std::string_view text, const std::string& source) {
  if (text.size() > max_bytes) fail_at({source, 0, 0}, "larger than 1 MiB, too large for a recipe");
  check_characters(text, source);
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  Builder builder(source);
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    Setting root = builder.take();
    Builder second(source);
    if (parser.HandleNextDocument(second)) fail_at(second.take().place, "more than one YAML document");
    return root;
  } catch (const YAML::Exception& e) {
    const Place place = e.mark.is_null() ? Place{source, 0, 0} : Place{source, e.mark.line + 1, e.mark.column + 1};
    fail_at(place, "not valid YAML: " + e.msg);
  }
}

namespace {

bool word_of(const Setting& setting, std::string_view& out) {
  const auto* text = std::get_if<std::string>(&setting.value);
  if (!text || setting.quoted) return false;
  out = *text;
  return true;
}

template <class T>
std::optional<T> whole(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::int64_t> yaml_integer(const Setting& setting) {
  std::string_view text;
  return word_of(setting, text) ? whole<std::int64_t>(text) : std::nullopt;
}

std::optional<double> yaml_number(const Setting& setting) {
  std::string_view text;
  if (!word_of(setting, text)) return std::nullopt;
  const auto value = whole<double>(text);
  // from_chars also reads "inf" and "nan", which no knob wants.
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<bool> yaml_bool(const Setting& setting) {
  std::string_view text;
  if (!word_of(setting, text)) return std::nullopt;
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  return std::nullopt;
}

std::string describe(const Setting& setting) {
  if (std::holds_alternative<List>(setting.value)) return "a list";
  if (std::holds_alternative<Settings>(setting.value)) return "a map";
  if (setting.null()) return "nothing";
  constexpr std::size_t shown = 80;
  const std::string& text = std::get<std::string>(setting.value);
  return '"' + (text.size() > shown ? text.substr(0, shown) + "..." : text) + '"';
}

void fail_at(const Place& place, const std::string& text, std::string hint) {
  throw Error(Code::usage, place.text() + ": " + text, std::move(hint));
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string near = nearest(word, candidates);
  return near.empty() ? std::string() : "; did you mean \"" + near + "\"?";
}

std::string Place::text() const {
  return line == 0 ? file : file + ":" + std::to_string(line) + ":" + std::to_string(column);
}

bool Setting::null() const {
  const auto* text = std::get_if<std::string>(&value);
  return text && text->empty() && !quoted;
}

const Settings& as_map(const Setting& setting, const std::string& what) {
  if (const auto* map = std::get_if<Settings>(&setting.value)) return *map;
  fail_at(setting.place, what + " must be a map of keys, not " + describe(setting));
}

const std::string& Setting::scalar() const {
  if (const auto* text = std::get_if<std::string>(&value); text && !null()) return *text;
  fail_at(place, "expected one word or number, found " + describe(*this));
}

Json Setting::json() const {
  if (const auto* list = std::get_if<List>(&value)) {
    Json out = Json::array();
    for (const Setting& item : *list) out.push(item.json());
    return out;
  }
  if (const auto* map = std::get_if<Settings>(&value)) {
    Json out = Json::object();
    for (const auto& [name, item] : *map) out.set(name, item.json());
    return out;
  }
  if (null()) return {};
  if (const auto b = yaml_bool(*this)) return *b;
  if (const auto i = yaml_integer(*this)) return *i;
  if (const auto d = yaml_number(*this)) return *d;
  return std::get<std::string>(value);
}

}  // namespace qtool

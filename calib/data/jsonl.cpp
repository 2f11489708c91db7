// SPDX-License-Identifier: Apache-2.0
// JSON lines: one sample per line, {"input_ids": [1, 2, 3], ...} or a bare list. Lists nest as the input's axes do.
#include <algorithm>
#include <string_view>

#include "calib/data/samples.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/json.h"

namespace qtool {
namespace {

struct Numbers {
  Shape shape;
  std::vector<std::int64_t> integers;
  std::vector<double> reals;  // as many, where the input is a float or the numbers are not integers
  bool integral = true;
};

void collect(const Json& j, std::size_t depth, Numbers& out, const std::string& where) {
  if (j.is_array()) {
    const auto extent = static_cast<std::int64_t>(j.as_array().size());
    if (depth == out.shape.size() && out.integers.empty()) out.shape.push_back(extent);
    if (depth >= out.shape.size() || out.shape[depth] != extent) {
      throw Error(Code::calibration, where + ": the lists are ragged");
    }
    for (const Json& item : j.as_array()) collect(item, depth + 1, out, where);
    return;
  }
  if (!j.is_number() && !j.is_bool()) throw Error(Code::calibration, where + ": only numbers and lists are read");
  if (depth != out.shape.size()) throw Error(Code::calibration, where + ": the lists are ragged");
  const bool integer = j.is_integer() || j.is_bool();
  out.integral = out.integral && integer;
  out.integers.push_back(j.is_bool() ? static_cast<std::int64_t>(j.as_bool()) : j.is_integer() ? j.as_integer() : 0);
  out.reals.push_back(integer ? static_cast<double>(out.integers.back()) : j.as_number());
}

Tensor tensor_of(const Json& j, const Wanted& w, const std::string& where) {
  Numbers n;
  collect(j, 0, n, where);
  const bool real = !n.integral || (w.type.known_dtype && is_float(w.type.dtype));
  Tensor t = real ? Tensor::of<double>(n.shape, std::span<const double>(n.reals))
                  : Tensor::of<std::int64_t>(n.shape, std::span<const std::int64_t>(n.integers));
  return w.type.known_dtype ? as_input(t, w.type.dtype, w.name) : t;
}

/// Inputs of language models that token ids alone determine: a mask of ones, positions, one segment.
bool derived(const Wanted& w, const Tensor& ids, Tensor& out) {
  const bool mask = w.name == "attention_mask", positions = w.name == "position_ids";
  if (!mask && !positions && w.name != "token_type_ids") return false;
  Tensor t(DType::i64, ids.shape());
  const auto values = t.write<std::int64_t>();
  const std::int64_t length = ids.shape().empty() ? 1 : ids.shape().back();
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = mask ? 1 : positions ? static_cast<std::int64_t>(i) % length : 0;
  }
  out = w.type.known_dtype && !is_float(w.type.dtype) ? as_input(t, w.type.dtype, w.name)
                                                      : from_f32(to_f32(t), w.type.dtype);
  return true;
}

}  // namespace

std::unique_ptr<Samples> open_jsonl(const std::filesystem::path& path, const std::vector<Wanted>& wanted) {
  const MappedFile file(path);
  std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  const auto named = [&](std::string_view name) {
    return std::find_if(wanted.begin(), wanted.end(), [&](const Wanted& w) { return w.name == name; });
  };
  // Where bare lists go: to the only input, or to the token ids.
  auto bare = wanted.size() == 1 ? wanted.begin() : named("input_ids");
  std::vector<ListSamples::Row> rows;
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view one = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (one.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = path.string() + ":" + std::to_string(line);
    Json j;
    try {
      j = Json::parse(one, where);
    } catch (const Error& e) {
      throw Error(Code::calibration, e.what(), "one JSON value per line");
    }
    ListSamples::Row row;
    if (j.is_object()) {
      for (const Wanted& w : wanted) {
        if (const Json* value = j.find(w.name)) row[w.name] = tensor_of(*value, w, where + ": " + w.name);
      }
    } else if (bare != wanted.end()) {
      row[bare->name] = tensor_of(j, *bare, where);
    } else {
      throw Error(Code::calibration, where + ": a bare list does not say which of the model's inputs it is",
                  "write {\"<input name>\": [...]}");
    }
    const auto ids = row.find("input_ids");
    for (const Wanted& w : wanted) {
      if (row.count(w.name) != 0) continue;
      if (ids == row.end() || !derived(w, ids->second, row[w.name])) {
        throw Error(Code::calibration, where + ": no values for the model's input \"" + w.name + "\"",
                    "write {\"" + w.name + "\": [...]} on every line");
      }
    }
    rows.push_back(std::move(row));
  }
  return std::make_unique<ListSamples>(std::move(rows), false);
}

}  // namespace qtool

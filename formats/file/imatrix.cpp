// SPDX-License-Identifier: Apache-2.0
#include "formats/file/imatrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "formats/base/bytes.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/gguf.h"

namespace qtool {
namespace {

constexpr std::string_view sums_of = ".in_sum2", counts_of = ".counts";
constexpr std::string_view type_key = "general.type", datasets_key = "imatrix.datasets",
                           chunks_key = "imatrix.chunk_count", chunk_size_key = "imatrix.chunk_size";

[[noreturn]] void fail(const std::string& source, const std::string& what) {
  throw Error(Code::input, source + ": " + what);
}

/// Numbers that sums and counts can be.
void check(const std::vector<double>& numbers, const std::string& source, const std::string& entry) {
  const bool fine = std::all_of(numbers.begin(), numbers.end(), [](double v) { return std::isfinite(v) && v >= 0; });
  if (!fine) fail(source, "entry \"" + entry + "\" holds a number that is negative or not finite");
}

std::vector<double> floats_of(const GgufTensor& t, const std::string& source) {
  if (t.type != find_ggml_type("F32")) fail(source, "tensor \"" + t.name + "\" is not of type F32");
  std::vector<float> numbers(t.data.size() / sizeof(float));
  if (!numbers.empty()) std::memcpy(numbers.data(), t.data.data(), t.data.size());
  return {numbers.begin(), numbers.end()};
}

std::uint32_t small_number(const Gguf& file, std::string_view key, std::uint32_t otherwise, const std::string& source) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return otherwise;
  const auto number = value->as_unsigned();
  if (value->kind != GgufValue::Kind::u32 || !number) fail(source, "key \"" + std::string(key) + "\" is no u32");
  return static_cast<std::uint32_t>(*number);
}

Imatrix read_gguf(std::span<const std::byte> bytes, const std::string& source) {
  const Gguf file(bytes, source, {});
  const GgufValue* type = file.find(type_key);
  if (type == nullptr || type->as_text() == nullptr || *type->as_text() != "imatrix") {
    fail(source, "this GGUF file is no importance matrix: its general.type is not \"imatrix\"");
  }
  Imatrix all;
  if (const GgufValue* sets = file.find(datasets_key)) {
    if (sets->as_texts() == nullptr) fail(source, "key \"imatrix.datasets\" is no list of texts");
    all.datasets = *sets->as_texts();
  }
  all.chunks = small_number(file, chunks_key, 0, source);
  all.chunk_size = std::max(1U, small_number(file, chunk_size_key, 1, source));
  std::map<std::string, std::pair<const GgufTensor*, const GgufTensor*>> pairs;
  for (const GgufTensor& t : file.tensors()) {
    const std::string_view name = t.name;
    if (name.ends_with(sums_of)) {
      pairs[std::string(name.substr(0, name.size() - sums_of.size()))].first = &t;
    } else if (name.ends_with(counts_of)) {
      pairs[std::string(name.substr(0, name.size() - counts_of.size()))].second = &t;
    }
  }
  for (const auto& [name, pair] : pairs) {
    if (pair.first == nullptr || pair.second == nullptr) {
      fail(source, "entry \"" + name + "\" has no tensor " + std::string(pair.first ? counts_of : sums_of));
    }
    Imatrix::Entry entry{name, floats_of(*pair.first, source), floats_of(*pair.second, source)};
    if (entry.sums.empty() || entry.counts.empty() || entry.sums.size() % entry.counts.size() != 0) {
      fail(source, "entry \"" + name + "\" has " + std::to_string(entry.sums.size()) + " sums for " +
                       std::to_string(entry.counts.size()) + " counts");
    }
    check(entry.sums, source, name);
    check(entry.counts, source, name);
    all.entries.push_back(std::move(entry));
  }
  return all;
}

/// A length or a number of calls, which the older kind holds signed.
std::uint32_t positive(ByteReader& in, const std::string& source, const std::string& what) {
  const auto number = in.number<std::int32_t>();
  if (number < 0) fail(source, what + " is negative");
  return static_cast<std::uint32_t>(number);
}

std::string short_text(ByteReader& in, const std::string& source, const std::string& what) {
  const auto raw = in.bytes(positive(in, source, "the length of " + what));
  return {reinterpret_cast<const char*>(raw.data()), raw.size()};
}

Imatrix read_dat(std::span<const std::byte> bytes, const std::string& source) {
  Imatrix all;
  ByteReader in(bytes);
  const std::uint32_t count = positive(in, source, "the number of entries");
  if (count == 0) fail(source, "this importance matrix has no entry");
  for (std::uint32_t i = 0; i < count; ++i) {
    Imatrix::Entry entry;
    entry.name = short_text(in, source, "a name");
    const std::uint32_t calls = std::max(1U, positive(in, source, "the calls of \"" + entry.name + "\""));
    const std::uint32_t values = positive(in, source, "the width of \"" + entry.name + "\"");
    if (entry.name.empty() || values == 0) fail(source, "entry " + std::to_string(i) + " has no name or no number");
    const auto raw = in.bytes(std::uint64_t{values} * sizeof(float));
    std::vector<float> numbers(values);
    std::memcpy(numbers.data(), raw.data(), raw.size());
    entry.sums.assign(numbers.begin(), numbers.end());
    entry.counts = {static_cast<double>(calls)};
    check(entry.sums, source, entry.name);
    all.entries.push_back(std::move(entry));
  }
  std::stable_sort(all.entries.begin(), all.entries.end(),
                   [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(all.entries.begin(), all.entries.end(),
                                        [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != all.entries.end()) fail(source, "entry \"" + twice->name + "\" is there twice");
  if (in.left() > 0) {  // the oldest files end here
    all.chunks = positive(in, source, "the number of chunks");
    std::string data = short_text(in, source, "the name of the data");
    if (!data.empty()) all.datasets.push_back(std::move(data));
  }
  if (in.left() > 0) fail(source, "there is more behind the end of this importance matrix");
  return all;
}

std::string write_gguf_kind(const Imatrix& all) {
  const Gguf::Values values{{std::string(type_key), GgufValue::text("imatrix")},
                            {std::string(datasets_key), GgufValue::texts(all.datasets)},
                            {std::string(chunks_key), GgufValue::u32(all.chunks)},
                            {std::string(chunk_size_key), GgufValue::u32(all.chunk_size)}};
  std::vector<GgufTensor> tensors;
  std::vector<std::vector<float>> numbers;
  numbers.reserve(all.entries.size() * 2);
  for (const Imatrix::Entry& e : all.entries) {
    constexpr std::size_t longest = Gguf::longest_name - sums_of.size();
    if (e.name.size() > longest) {
      throw Error(Code::input,
                  "weight \"" + e.name + "\": its name has " + std::to_string(e.name.size()) + " bytes, and " +
                      std::to_string(longest) + " fit into the names of a GGUF file",
                  "write the older kind, FILE.dat");
    }
    const auto matrices = static_cast<std::int64_t>(e.counts.size());
    const auto inputs = static_cast<std::int64_t>(e.sums.size()) / matrices;
    const auto add = [&](std::string_view suffix, const std::vector<double>& from, std::int64_t width) {
      numbers.emplace_back(from.begin(), from.end());
      tensors.push_back({e.name + std::string(suffix),
                         {matrices, width},
                         find_ggml_type("F32"),
                         std::as_bytes(std::span(numbers.back()))});
    };
    add(sums_of, e.sums, inputs);
    add(counts_of, e.counts, 1);
  }
  std::string out;
  write_gguf(values, tensors, [&](std::string_view part) { out += part; });
  return out;
}

std::int32_t fitting(double number, const std::string& what) {
  if (!(number <= std::numeric_limits<std::int32_t>::max())) {
    throw Error(Code::input, what + " is too large for the older kind of importance matrix", "write FILE.gguf");
  }
  return static_cast<std::int32_t>(number);
}

std::string write_dat(const Imatrix& all) {
  ByteWriter out;
  const auto text = [&](const std::string& s) {
    out.number(fitting(static_cast<double>(s.size()), "a name")).bytes(std::as_bytes(std::span(s)));
  };
  const auto most_tokens = [](const Imatrix::Entry& e) { return *std::max_element(e.counts.begin(), e.counts.end()); };
  std::int32_t known = 0;
  for (const Imatrix::Entry& e : all.entries) known += most_tokens(e) > 0 ? 1 : 0;
  out.number(known);
  for (const Imatrix::Entry& e : all.entries) {
    const double most = most_tokens(e);
    if (most == 0) continue;
    const double calls = std::ceil(most / static_cast<double>(std::max(1U, all.chunk_size)));
    text(e.name);
    out.number(fitting(calls, "the number of calls of \"" + e.name + "\""));
    out.number(fitting(static_cast<double>(e.sums.size()), "the width of \"" + e.name + "\""));
    for (const double mean : e.means()) out.number(static_cast<float>(mean * calls));
  }
  out.number(fitting(all.chunks, "the number of chunks"));
  text(all.datasets.empty() ? std::string() : all.datasets.back());
  const auto bytes = out.written();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::vector<double> Imatrix::Entry::means() const {
  std::vector<double> out(sums.size(), 1.0);
  const std::size_t width = sums.size() / counts.size();
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (const double count = counts[i / width]; count > 0) out[i] = sums[i] / count;
  }
  return out;
}

const Imatrix::Entry* Imatrix::find(std::string_view name) const {
  const auto found = std::lower_bound(entries.begin(), entries.end(), name,
                                      [](const Entry& e, std::string_view n) { return e.name < n; });
  return found != entries.end() && found->name == name ? &*found : nullptr;
}

Imatrix read_imatrix_bytes(std::span<const std::byte> bytes, const std::string& source) {
  if (Gguf::is_one(bytes)) return read_gguf(bytes, source);
  try {
    return read_dat(bytes, source);
  } catch (const Error& e) {
    if (e.code() != Code::input || std::string_view(e.what()).starts_with(source + ": ")) throw;
    fail(source, "this importance matrix ends early, or a length in it is wrong");
  }
}

Imatrix read_imatrix(const std::filesystem::path& path) {
  const MappedFile file(path);
  return read_imatrix_bytes(file.bytes(), path.string());
}

std::string imatrix_bytes(const Imatrix& all, Imatrix::Kind kind) {
  return kind == Imatrix::Kind::gguf ? write_gguf_kind(all) : write_dat(all);
}

}  // namespace qtool

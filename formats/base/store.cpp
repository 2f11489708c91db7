// SPDX-License-Identifier: Apache-2.0
#include "formats/base/store.h"

#include <algorithm>
#include <cstdio>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace qtool {
namespace fs = std::filesystem;
namespace {

// The header is one line of text, filled up with blanks so that `about` begins at a multiple of 64, and so do the
// bytes.
constexpr std::string_view schema = "qtool.entry/1";
constexpr std::size_t line = 320, alignment = 64, longest_kind = 32;
static_assert(line % alignment == 0);

std::size_t padded(std::size_t n) { return (n + alignment - 1) / alignment * alignment; }

/// `about` and bytes are what the checksum covers.
std::string header(std::string_view kind, std::string_view key, std::string_view about,
                   std::span<const std::byte> bytes) {
  Hasher hasher;
  hasher.text(kind).text(key).text(about).bytes(bytes);
  std::string text(schema);
  text += " " + std::string(kind) + " " + std::string(key) + " " + std::to_string(about.size()) + " " +
          std::to_string(bytes.size()) + " " + hex(hasher.finish());
  text.resize(line - 1, ' ');
  return text + "\n";
}

struct Parsed {
  std::string kind;
  Json about;
  std::span<const std::byte> bytes;
};

/// The parts of a file that is a whole entry of this name.
std::optional<Parsed> parse(std::span<const std::byte> file, const std::string& name) {
  if (file.size() < line) return std::nullopt;
  const std::string_view head(reinterpret_cast<const char*>(file.data()), line);
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos || !head.starts_with(schema)) return std::nullopt;
  const std::string key = name.substr(0, dot), kind = name.substr(dot + 1);
  unsigned long long about = 0, size = 0;
  const std::string begins = std::string(schema) + " " + kind + " " + key + " ";
  if (!head.starts_with(begins)) return std::nullopt;
  if (std::sscanf(std::string(head.substr(begins.size())).c_str(), "%llu %llu", &about, &size) != 2)
    return std::nullopt;
  const std::size_t left = file.size() - line;
  if (about > left || size > left || padded(about) + size != left) return std::nullopt;
  const std::string_view told(reinterpret_cast<const char*>(file.data()) + line, about);
  const auto bytes = file.subspan(line + padded(about));
  if (header(kind, key, told, bytes) != head) return std::nullopt;
  try {
    return Parsed{kind, Json::parse(told, name), bytes};
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

fs::path Store::path(std::string_view kind, const Digest& key) const {
  QTOOL_ENSURE(kind.size() <= longest_kind, "kinds of entries have short names");
  return folder_ / (hex(key) + "." + std::string(kind));
}

bool Store::has(std::string_view kind, const Digest& key) const {
  std::error_code ignored;
  return fs::is_regular_file(path(kind, key), ignored);
}

std::optional<Store::Entry> Store::load(std::string_view kind, const Digest& key) const {
  const fs::path file = path(kind, key);
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return std::nullopt;
  try {
    const MappedFile mapped(file);
    auto parsed = parse(mapped.bytes(), file.filename().string());
    if (!parsed) return std::nullopt;
    return Entry{std::move(parsed->about), parsed->bytes, mapped.owner()};
  } catch (const Error&) {  // gone meanwhile, or not ours to read
    return std::nullopt;
  }
}

void Store::save(std::string_view kind, const Digest& key, const Json& about, std::span<const std::byte> bytes) const {
  std::error_code failed;
  fs::create_directories(folder_, failed);
  const std::string told = about.dump();
  OutputFile file(path(kind, key));
  file.write(header(kind, hex(key), told, bytes));
  file.write(told + std::string(padded(told.size()) - told.size(), ' '));
  file.write(bytes);
  file.publish(Sync::later);
}

void Store::remove(std::string_view kind, const Digest& key) const {
  std::error_code ignored;
  fs::remove(path(kind, key), ignored);
}

std::vector<Store::Listed> Store::list() const {
  std::error_code failed;
  std::vector<fs::path> files;
  for (auto at = fs::directory_iterator(folder_, failed); !failed && at != fs::directory_iterator();
       at.increment(failed)) {
    if (at->is_regular_file(failed)) files.push_back(at->path());
  }
  if (failed && failed != std::errc::no_such_file_or_directory) {
    throw Error(Code::usage, "cannot read " + folder_.string() + ": " + failed.message());
  }
  std::sort(files.begin(), files.end());
  std::vector<Listed> all;
  for (const fs::path& file : files) {
    Listed listed{file.filename().string(), {}, 0, std::nullopt};
    try {
      const MappedFile mapped(file);
      listed.bytes = mapped.bytes().size();
      if (auto parsed = parse(mapped.bytes(), listed.file)) {
        listed.kind = parsed->kind;
        listed.about = std::move(parsed->about);
      }
    } catch (const Error&) {  // gone meanwhile, or not ours to read
    }
    all.push_back(std::move(listed));
  }
  return all;
}

}  // namespace qtool

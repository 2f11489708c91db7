// SPDX-License-Identifier: Apache-2.0
#include "formats/schema.h"

#include <charconv>
#include <optional>
#include <string>

#include "formats/base/error.h"

namespace qtool {
namespace {

struct Schema {
  std::string_view name;
  int version = 0;
};

std::optional<Schema> schema_of(std::string_view text) {
  const std::size_t slash = text.rfind('/');
  if (slash == std::string_view::npos) return std::nullopt;
  Schema s{text.substr(0, slash)};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + slash + 1, end, s.version);
  if (error != std::errc() || stop != end || s.version < 0) return std::nullopt;
  return s;
}

}  // namespace

void check_schema(const Json& file, std::string_view wanted, std::string_view source, std::string_view remake) {
  const Json* member = file.find("schema");
  const auto found = member && member->is_string() ? schema_of(member->as_string()) : std::nullopt;
  const Schema ours = *schema_of(wanted);
  const std::string where(source), again(remake);
  if (!found || found->name != ours.name) {
    throw Error(Code::input, where + ": no file of the schema " + std::string(wanted), again);
  }
  const int version = found.value_or(ours).version;
  if (version == ours.version) return;
  const bool newer = version > ours.version;
  throw Error(Code::input,
              where + ": its schema is " + member->as_string() + (newer ? ", newer" : ", older") + " than " +
                  std::string(wanted) + ", which this qtool " QTOOL_VERSION " reads",
              newer ? "use the qtool that wrote it or a later one" : again);
}

}  // namespace qtool

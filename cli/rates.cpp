// SPDX-License-Identifier: Apache-2.0
#include "cli/rates.h"

#include <cmath>
#include <cstdlib>
#include <string>
#include <system_error>

#include "calib/doctor.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/json.h"

namespace qtool {
namespace {

constexpr std::string_view schema = "qtool.rates/1";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

std::filesystem::path rates_file() {
  const std::string cache = variable("XDG_CACHE_HOME"), home = variable("HOME");
  if (cache.starts_with('/')) return std::filesystem::path(cache) / "qtool" / "rates.json";
  if (home.starts_with('/')) return std::filesystem::path(home) / ".cache" / "qtool" / "rates.json";
  return {};
}

Rates known_rates() {
  const std::filesystem::path file = rates_file();
  std::error_code error;
  if (file.empty() || !std::filesystem::is_regular_file(file, error)) return {};
  try {
    const Json json = Json::parse(read_text(file), file.string());
    if (text_in(json, "schema") != schema || text_in(json, "qtool") != QTOOL_VERSION) return {};
    if (text_in(json, "processor") != processor_name()) return {};
    const Json* list = json.find("ns");
    Rates rates;
    bool whole = list != nullptr;
    for_each_rate(rates, [&](const char* name, double& rate) {
      const Json* value = whole ? list->find(name) : nullptr;
      whole = value && value->is_number() && std::isfinite(value->as_number()) && value->as_number() > 0;
      if (whole) rate = value->as_number();
    });
    if (!whole) return {};
    rates.source = file.string();
    return rates;
  } catch (const Error&) {
    return {};  // what is broken is measured again
  }
}

void save_rates(const Rates& rates) {
  const std::filesystem::path file = rates_file();
  if (file.empty()) throw Error(Code::usage, "there is no cache folder", "set XDG_CACHE_HOME");
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  if (error)
    throw Error(Code::usage, "the folder " + file.parent_path().string() + " cannot be made: " + error.message());
  Json list = Json::object();
  for_each_rate(rates, [&](const char* name, double rate) { list.set(name, rate); });
  Json json = Json::object();
  json.set("schema", schema).set("qtool", QTOOL_VERSION).set("processor", processor_name()).set("ns", std::move(list));
  OutputFile out(file);
  out.write(json.dump(2) + "\n");
  out.publish(Sync::later);
}

}  // namespace qtool

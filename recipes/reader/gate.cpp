// SPDX-License-Identifier: Apache-2.0
// The limits of a recipe's gate.
#include <limits>

#include "recipes/reader/bind.h"
#include "recipes/reader/keys.h"
#include "recipes/reader/recipe.h"
#include "recipes/reader/yaml.h"

namespace qtool {
namespace {

struct Limits {
  static constexpr double unset = std::numeric_limits<double>::quiet_NaN();
  double sqnr = unset, kl = unset, drop = unset, ratio = unset, agreement = unset;

  void options(Options& o) {
    o("sqnr_db", sqnr, "least signal-to-noise ratio of every output, dB", -200, 200);
    o("kl", kl, "most mean KL divergence of class scores, nats", 0, 1000);
    o("top1_drop", drop, "most accuracy lost against the input model, as a fraction", 0, 1);
    o("size_ratio", ratio, "most file size, as a fraction of the input file", 0, 10);
    o("agreement", agreement, "least fraction of samples with the same best class", 0, 1);
  }
};

}  // namespace

Gate parse_gate(const Setting& setting) {
  const Settings& map = as_map(setting, "\"gate\"");
  if (map.empty()) fail_at(setting.place, "\"gate\" has no limit", "leave it out to have no gate");
  Limits limits;
  bind_knobs(
      map, [&](Options& o) { limits.options(o); }, "\"gate\"");
  const auto limit = [](double v) { return v == v ? std::optional<double>(v) : std::nullopt; };
  return {limit(limits.sqnr),
          limit(limits.kl),
          limit(limits.drop),
          limit(limits.ratio),
          limit(limits.agreement),
          setting.place,
          map};
}

Json describe_gate() {
  Limits limits;
  return describe_knobs([&](Options& o) { limits.options(o); });
}

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "formats/number/scheme.h"

#include <algorithm>
#include <array>

#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr Scheme all[] = {
#define QTOOL_NUMBER(name) {#name, &number::name},
#include "formats/number/list.inc"
#undef QTOOL_NUMBER
#define QTOOL_SCHEME(name, element, scale, group, second, rule, narrow, alternative) \
  {#name, &number::element, scale, group, second, ScaleRule::rule, narrow, alternative},
#include "formats/number/schemes.inc"
#undef QTOOL_SCHEME
};

constexpr std::string_view rule_names[] = {"range", "full_range", "floor",  "even",
                                           "ceil",  "rceil",      "search", "four_over_six"};

}  // namespace

std::string_view name_of(ScaleRule rule) { return rule_names[static_cast<std::size_t>(rule)]; }

std::span<const std::string_view> scale_rules() { return rule_names; }

double Scheme::bits_per_element(std::int64_t shared) const {
  double per_scale = scale == nullptr ? 32 : scale->bits;
  if (second == Second::groups) per_scale += 32.0 / static_cast<double>(double_group);
  return element->bits + per_scale / static_cast<double>(shared);
}

const Scheme* find_scheme(std::string_view name) {
  const auto found = std::find_if(std::begin(all), std::end(all), [&](const Scheme& s) { return s.name == name; });
  return found == std::end(all) ? nullptr : found;
}

const Scheme& scheme_of(const NumberFormat& format) {
  const Scheme* found = find_scheme(format.name);
  QTOOL_ENSURE(found != nullptr && found->element == &format, "every number format is a scheme");
  return *found;
}

std::span<const Scheme> schemes() { return all; }

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "passes/pass.h"

#include <algorithm>
#include <array>

#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr auto table = std::to_array<const PassDef*>({
#define QTOOL_PASS(name) &pass::name,
#include "passes/list.inc"
#undef QTOOL_PASS
});

}  // namespace

std::string_view name_of(Effect effect) {
  switch (effect) {
    case Effect::measure: return "measure";
    case Effect::equivalent: return "equivalent";
    case Effect::annotate: return "annotate";
    case Effect::lossy: return "lossy";
  }
  return "unknown";
}

bool PassContext::selects(NodeId node) const {
  return !selected || std::find(selected->begin(), selected->end(), node) != selected->end();
}

void PassContext::check_stop() const { qtool::check_stop(stop); }

void declare_keep(Options& o, std::string& keep) { o("keep", keep, "leave these nodes alone", {"float"}); }

const PassDef* find_pass(std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const PassDef* def) { return def->name == name; });
  return found == table.end() ? nullptr : *found;
}

std::span<const PassDef* const> passes() { return table; }

}  // namespace qtool

// SPDX-License-Identifier: Apache-2.0
#include "backends/backend.h"

#include <array>

namespace qtool {
namespace {

constexpr std::array all{
#define QTOOL_BACKEND(name) &backend::name,
#include "backends/list.inc"
#undef QTOOL_BACKEND
};

}  // namespace

const BackendDef* find_backend(std::string_view name) {
  for (const BackendDef* def : all) {
    if (def->name == name) return def;
  }
  return nullptr;
}

std::span<const BackendDef* const> backends() { return all; }

}  // namespace qtool

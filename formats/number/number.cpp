// SPDX-License-Identifier: Apache-2.0
#include "formats/number/number.h"

namespace qtool {
namespace {

const NumberFormat* const all[] = {
#define QTOOL_NUMBER(name) &number::name,
#include "formats/number/list.inc"
#undef QTOOL_NUMBER
};

}  // namespace

const NumberFormat* find_number(std::string_view name) {
  for (const NumberFormat* f : all) {
    if (f->name == name) return f;
  }
  return nullptr;
}

std::span<const NumberFormat* const> numbers() { return all; }

}  // namespace qtool

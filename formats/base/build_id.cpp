// SPDX-License-Identifier: Apache-2.0
#include "formats/base/build_id.h"

#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace qtool {
namespace {

constexpr std::string_view gnu("GNU\0", 4);

/// Notes are a header, the owner's name and a description, both padded to four bytes.
std::string id_in(const char* at, std::size_t left) {
  const auto padded = [](std::size_t n) { return (n + 3) / 4 * 4; };
  while (left >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) note;
    std::memcpy(&note, at, sizeof note);
    const std::size_t name = padded(note.n_namesz), size = padded(note.n_descsz);
    if (left - sizeof note < name || left - sizeof note - name < size) return {};
    const char* text = at + sizeof note;
    if (note.n_type == NT_GNU_BUILD_ID && std::string_view(text, note.n_namesz) == gnu) {
      std::string hex;
      for (std::size_t i = 0; i < note.n_descsz; ++i) {
        const auto byte = static_cast<std::uint8_t>(text[name + i]);
        hex += "0123456789abcdef"[byte >> 4];
        hex += "0123456789abcdef"[byte & 15];
      }
      return hex;
    }
    at += sizeof note + name + size;
    left -= sizeof note + name + size;
  }
  return {};
}

struct Search {
  const char* inside;
  std::string found;
};

/// Of the loaded object (the program, or a shared library) that holds the address.
int look_at(dl_phdr_info* object, std::size_t, void* search_) {
  auto& search = *static_cast<Search*>(search_);
  const auto inside = reinterpret_cast<std::uintptr_t>(search.inside);
  bool holds = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& part = object->dlpi_phdr[i];
    const std::uintptr_t begin = object->dlpi_addr + part.p_vaddr;
    holds = holds || (part.p_type == PT_LOAD && inside >= begin && inside - begin < part.p_memsz);
  }
  if (!holds) return 0;
  for (int i = 0; i < object->dlpi_phnum && search.found.empty(); ++i) {
    const auto& part = object->dlpi_phdr[i];
    if (part.p_type != PT_NOTE) continue;
    const auto distance = static_cast<std::ptrdiff_t>(object->dlpi_addr + part.p_vaddr - inside);
    search.found = id_in(search.inside + distance, part.p_memsz);
  }
  return 1;
}

}  // namespace

const std::string& build_id() {
  static const std::string id = [] {
    static const char here = 0;
    Search search{&here, {}};
    ::dl_iterate_phdr(look_at, &search);
    return search.found.empty() ? std::string(QTOOL_VERSION) : search.found;
  }();
  return id;
}

}  // namespace qtool

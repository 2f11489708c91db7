// SPDX-License-Identifier: Apache-2.0
#include "formats/lock.h"

#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// What is read can be written, and reads back the same.
void lock(std::span<const std::byte> bytes) {
  refuses_with(Code::input, [&] {
    const std::string text = parse_lock({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "m.lock").text();
    if (parse_lock(text, "m.lock").text() != text) throw std::logic_error("a lock reads back as another");
  });
}

}  // namespace qtool::fuzz

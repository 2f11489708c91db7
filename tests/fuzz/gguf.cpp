// SPDX-License-Identifier: Apache-2.0
#include "formats/file/gguf.h"

#include <string>

#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// A container that was read can be written, and what was written reads as the same bytes again.
void gguf(std::span<const std::byte> bytes) {
  refuses_with(Code::input, [&] {
    const Gguf file(bytes, "m.gguf", {});
    const auto written = [](const Gguf& from) {
      std::string out;
      write_gguf(from.values(), from.tensors(), [&](std::string_view part) { out += part; });
      return out;
    };
    // Nothing that could be refused is left; the largest alignments would only pad.
    if (file.alignment() > 4096) return;
    const std::string first = written(file);
    const Gguf again(std::as_bytes(std::span(first.data(), first.size())), "again.gguf", {});
    if (written(again) != first) throw std::logic_error("writing and reading changed the container");
  });
}

}  // namespace qtool::fuzz

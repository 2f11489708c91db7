// SPDX-License-Identifier: Apache-2.0
#include "formats/file/imatrix.h"

#include <vector>

#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// What was read can be written as a container, and is the same when read again.
void imatrix(std::span<const std::byte> bytes) {
  refuses_with(Code::input, [&] {
    const Imatrix all = read_imatrix_bytes(bytes, "m");
    const std::string written = imatrix_bytes(all, Imatrix::Kind::gguf);
    const Imatrix again = read_imatrix_bytes(std::as_bytes(std::span(written.data(), written.size())), "again");
    bool same = again.entries.size() == all.entries.size() && again.datasets == all.datasets &&
                again.chunks == all.chunks && again.chunk_size == all.chunk_size;
    for (std::size_t i = 0; same && i < all.entries.size(); ++i) {
      const auto &a = all.entries[i], &b = again.entries[i];
      // Counts are float32 in the container, and whole numbers in the older kind.
      same =
          a.name == b.name && a.sums == b.sums &&
          std::vector<float>(a.counts.begin(), a.counts.end()) == std::vector<float>(b.counts.begin(), b.counts.end());
    }
    if (!same) throw std::logic_error("writing and reading changed the matrix");
  });
}

}  // namespace qtool::fuzz

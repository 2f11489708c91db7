// SPDX-License-Identifier: Apache-2.0
#include "formats/file/npy.h"

#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// An array that was read is the same after writing and reading.
void npy(std::span<const std::byte> bytes) {
  refuses_with(Code::input, [&] {
    const Tensor array = read_npy(bytes, "a.npy");
    const std::string written = npy_bytes(array);
    const Tensor again = read_npy(std::as_bytes(std::span(written.data(), written.size())), "again.npy");
    const auto a = array.bytes(), b = again.bytes();
    if (again.dtype() != array.dtype() || again.shape() != array.shape() ||
        !std::equal(a.begin(), a.end(), b.begin(), b.end())) {
      throw std::logic_error("writing and reading changed the array");
    }
  });
}

}  // namespace qtool::fuzz

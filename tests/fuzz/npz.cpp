// SPDX-License-Identifier: Apache-2.0
#include "calib/data/npz.h"

#include "tests/fuzz/scratch_path.h"
#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

void npz(std::span<const std::byte> bytes) {
  const ScratchPath file(bytes);
  refuses_with(Code::input, [&] {
    const NpzFile arrays(file.path());
    for (const std::string& name : arrays.names()) refuses_with(Code::input, [&] { arrays.read(name); });
  });
}

}  // namespace qtool::fuzz

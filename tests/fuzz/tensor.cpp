// SPDX-License-Identifier: Apache-2.0
#include "formats/file/reader.h"
#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

void tensor(std::span<const std::byte> bytes) {
  refuses_with(Code::input, [&] { read_tensor_proto(bytes, "input_0.pb"); });
}

}  // namespace qtool::fuzz

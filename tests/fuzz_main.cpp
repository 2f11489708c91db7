// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry for one target, QTOOL_FUZZ_TARGET.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  qtool::fuzz::QTOOL_FUZZ_TARGET(std::as_bytes(std::span(data, size)));
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Readers of files as functions of bytes. A target returns, whatever the bytes are: what it reads it uses, what the
// reader refuses must be refused as documented. Everything else (another exception, a crash, a hang, an allocation
// beyond the bound in tests/fuzz/slow.py) is a bug. The same functions serve the fuzzer (tests/fuzz_main.cpp) and the
// replay of the corpus (replay_test.cpp).
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

#include "formats/base/error.h"

namespace qtool::fuzz {

#define QTOOL_FUZZ(name) void name(std::span<const std::byte>);
#include "tests/fuzz/list.inc"
#undef QTOOL_FUZZ

/// Runs f. An Error with `expected` is how a reader refuses; anything else leaves as it is.
template <class F>
void refuses_with(Code expected, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    if (e.code() != expected) throw std::logic_error(std::string(name_of(e.code())) + " error: " + e.what());
  }
}

}  // namespace qtool::fuzz

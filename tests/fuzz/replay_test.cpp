// SPDX-License-Identifier: Apache-2.0
// Every file of the corpus through its target: seeds, and whatever once broke a reader.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "formats/base/file.h"
#include "tests/fuzz/targets.h"
#include "tests/support.h"

namespace qtool::test {
namespace {

void replay(const std::string& name, void (*target)(std::span<const std::byte>)) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "tests" / "fuzz" / "corpus" / name)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  CHECK(!files.empty());
  for (const auto& file : files) {
    CAPTURE(file);
    // A copy in memory of exactly this size, so that sanitizers see a byte too far.
    const std::string text = read_text(file);
    const std::vector<char> bytes(text.begin(), text.end());
    CHECK_NOTHROW(target(std::as_bytes(std::span(bytes))));
  }
}

}  // namespace

#define QTOOL_FUZZ(name) \
  TEST_CASE("fuzz: the corpus of " #name) { replay(#name, fuzz::name); }
#include "tests/fuzz/list.inc"
#undef QTOOL_FUZZ

}  // namespace qtool::test

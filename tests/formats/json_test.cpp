// SPDX-License-Identifier: Apache-2.0
#include "formats/base/json.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "formats/base/sha256.h"

using namespace qtool;

TEST_CASE("JSON text survives a round trip") {
  const std::string text = R"({"a": [1, -2.5, true, null, "x\n\"ä\""], "b": {}, "big": 9007199254740993})";
  CHECK(Json::parse(text, "t").dump() == text);
}

TEST_CASE("JSON refuses what RFC 8259 refuses") {
  for (const char* bad :
       {"", "{", "[1,]", "01", "1.", "{\"a\":1,\"a\":2}", "\"\\ud800\"", "\"\xff\"", "nul", "[1] 2"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(Json::parse(bad, "t"), Error);
  }
}

TEST_CASE("SHA-256 known answers (FIPS 180-4 examples)") {
  const auto of = [](std::string_view s) {
    return hex(Hasher().bytes(std::as_bytes(std::span(s.data(), s.size()))).finish());
  };
  CHECK(of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST_CASE("SHA-256 with the processor's instructions is that of the standard, block for block") {
  std::vector<std::uint8_t> data(64 * 37);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i * i * 31 + i / 7);
  for (const std::size_t count : {0, 1, 2, 36}) {
    sha256::State fast{1, 2, 3, 0x80000000, 5, 6, 0xffffffff, 8}, plain = fast;
    sha256::blocks(fast, data.data() + 5, count);
    sha256::plain_blocks(plain, data.data() + 5, count);
    CHECK(fast == plain);
  }
}

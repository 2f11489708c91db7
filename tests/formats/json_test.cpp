// SPDX-License-Identifier: Apache-2.0
#include "formats/base/json.h"

#include <doctest/doctest.h>

#include "formats/base/error.h"
#include "formats/base/hash.h"

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

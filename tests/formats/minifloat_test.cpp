// SPDX-License-Identifier: Apache-2.0
// Minifloats against ml_dtypes (tests/golden/minifloats.txt), and the table of number-formats.md section 3.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "formats/number/number.h"
#include "tests/formats/one_code.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::vector<std::uint32_t> hex_numbers(const std::string& text) {
  std::istringstream in(text);
  in >> std::hex;
  std::vector<std::uint32_t> all;
  for (std::uint32_t v = 0; in >> v;) all.push_back(v);
  return all;
}

}  // namespace

TEST_CASE("minifloats agree with ml_dtypes: values of all codes, codes of numbers") {
  std::ifstream file(QTOOL_SOURCE_DIR "/tests/golden/minifloats.txt");
  REQUIRE(file.good());
  std::vector<std::uint32_t> probes;
  int formats = 0;
  for (std::string line; std::getline(file, line);) {
    if (line[0] == '#') continue;
    std::istringstream parts(line);
    std::string name, values, codes;
    std::getline(parts, name, '|');
    std::getline(parts, values, '|');
    name.pop_back();
    if (name == "probes") {
      probes = hex_numbers(values);
      continue;
    }
    std::getline(parts, codes);
    const NumberFormat* f = find_number(name);
    REQUIRE(f != nullptr);
    CAPTURE(name);
    ++formats;
    const auto want = hex_numbers(values), want_codes = hex_numbers(codes);
    REQUIRE(want.size() == (1u << f->bits));
    REQUIRE(want_codes.size() == probes.size());
    std::size_t wrong = 0;
    for (std::size_t c = 0; c < want.size(); ++c) {
      const float x = decode(*f, static_cast<std::uint16_t>(c)), y = std::bit_cast<float>(want[c]);
      wrong += std::isnan(y) ? !std::isnan(x) : std::bit_cast<std::uint32_t>(x) != want[c];
    }
    CHECK(wrong == 0);
    for (std::size_t i = 0; i < probes.size(); ++i) {
      const float x = std::bit_cast<float>(probes[i]);
      wrong += encode(*f, f->lowest > 0 ? std::fabs(x) : x) != want_codes[i];
    }
    CHECK(wrong == 0);
  }
  CHECK(formats == 10);
}

TEST_CASE("number-formats 3: highest, smallest normal and smallest subnormal") {
  struct Row {
    const NumberFormat* format;
    float highest, normal, subnormal;  // the last: of code 1
  };
  const Row rows[] = {{&number::e2m1, 6, 1, 0.5f},
                      {&number::e3m0, 16, 0.25f, 0.25f},
                      {&number::e1m2, 3.5f, 2, 0.5f},
                      {&number::e2m2, 7, 1, 0.25f},
                      {&number::e3m1, 24, 0.25f, 0.125f},
                      {&number::e2m3, 7.5f, 1, 0.125f},
                      {&number::e3m2, 28, 0.25f, 0.0625f},
                      {&number::e2m4, 7.75f, 1, 0x1p-4f},
                      {&number::e3m3, 30, 0.25f, 0x1p-5f},
                      {&number::e4m2, 448, 0x1p-6f, 0x1p-8f},
                      {&number::e4m3, 448, 0x1p-6f, 0x1p-9f},
                      {&number::e4m3fnuz, 240, 0x1p-7f, 0x1p-10f},
                      {&number::e5m2, 57344, 0x1p-14f, 0x1p-16f},
                      {&number::ue5m3, 114688, 0x1p-14f, 0x1p-17f}};
  for (const Row& r : rows) {
    CAPTURE(std::string(r.format->name));
    CHECK(r.format->highest == r.highest);
    CHECK(decode(*r.format, 1) == r.subnormal);
    // From the smallest normal number on values are twice as far apart in the next binade, below it evenly.
    const std::uint16_t normal = encode(*r.format, r.normal);
    CHECK(decode(*r.format, normal) == r.normal);
    CHECK(decode(*r.format, static_cast<std::uint16_t>(normal - 1)) == doctest::Approx(r.normal - r.subnormal));
  }
  const auto magnitudes = [](const NumberFormat& f) {
    std::set<float> all;
    for (std::uint16_t c = 0; c < (1 << f.bits); ++c) all.insert(std::fabs(decode(f, c)));
    return all;
  };
  CHECK(magnitudes(number::e2m0) == std::set<float>{0, 1, 2, 4});
  CHECK(magnitudes(number::e1m1) == std::set<float>{0, 1, 2, 3});
  CHECK(std::isnan(decode(number::ue5m3, 0xff)));
  CHECK(encode(number::ue5m3, -1.0f) == 0);
  CHECK(std::isnan(decode(number::e4m3fnuz, 0x80)));
  CHECK(encode(number::e4m3fnuz, -0.0f) == 0);
}

TEST_CASE("number-formats 8: the dynamic code book") {
  const NumberFormat& f = number::dynamic8;
  CHECK(decode(f, 127) == 0);
  CHECK(decode(f, 0) == -0.99296875f);
  CHECK(decode(f, 255) == 1);
  CHECK(decode(f, 254) == 0.99296875f);
  CHECK(decode(f, 128) == doctest::Approx(0.55e-6));
}

TEST_CASE("number-formats 8: fp4 of bitsandbytes") {
  const float magnitudes[] = {0, 0.0052083333f, 0.66666667f, 1, 0.33333333f, 0.5f, 0.16666667f, 0.25f};
  for (std::uint16_t c = 0; c < 16; ++c) {
    CHECK(std::fabs(decode(number::fp4, c)) == doctest::Approx(magnitudes[c & 7]));
    CHECK(std::signbit(decode(number::fp4, c)) == (c >= 8));
  }
}
